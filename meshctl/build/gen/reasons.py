"""The error reasons of the platform, with the canonical code and the meaning from their contracts."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import FileDescriptor
from google.rpc import code_pb2

from meshctl.build.gen.comments import Comments

# The reasons with which the chassis and the edge can fail any RPC.
COMMON = "protomesh.type.v1"
_CODES = frozenset(code_pb2.Code.keys())


@dataclass(frozen=True, slots=True)
class Reason:
    """A value of an ErrorReason; `code` is "" for one with which no call fails, such as that of an import's row."""

    name: str
    package: str
    code: str
    comment: str

    @property
    def meaning(self) -> str:
        """The meaning, without the code and the metadata."""
        return self.comment.removeprefix(f"{self.code}: ").partition(" Metadata: ")[0]


def all_reasons(files: Iterable[FileDescriptor], comments: Comments) -> dict[str, Reason]:
    """Returns every reason by its name. A comment begins with the code: `NOT_FOUND: there is no such …`."""
    return {reason.name: reason for file in files for reason in _in_file(file, comments)}


def _in_file(file: FileDescriptor, comments: Comments) -> Iterator[Reason]:
    enum = file.enum_types_by_name.get("ErrorReason")
    for value in enum.values if enum is not None else ():
        if value.number:
            comment = comments.of(f"{file.package}.ErrorReason.{value.name}")
            found = re.match(r"([A-Z_]+)( \(HTTP \d+\))?: ", comment)
            code = found[1] if found and found[1] in _CODES else ""
            yield Reason(value.name, file.package, code, comment)
