"""The comments of the contracts, read from the descriptor image, since imported modules have none."""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2

# Field numbers in the path of a source location, from descriptor.proto.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE, _FILE_EXTENSION = 4, 5, 6, 7
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM = 2, 3, 4
_ENUM_VALUE = _SERVICE_METHOD = 2

Path_ = tuple[int, ...]


class Comments:
    """Leading comments by full name. The name of an enum value is `package.Enum.VALUE`, unlike in protobuf."""

    def __init__(self, image: Path) -> None:
        self._texts: dict[str, str] = {}
        for file in descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file:
            locations = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
            for name, path in _names(file):
                self._texts[name] = _prose(locations.get(path, ""))

    def of(self, full_name: str) -> str:
        """Returns the comment, its lines joined into paragraphs; empty when there is none."""
        return self._texts.get(full_name, "")

    def description(self, full_name: str) -> str:
        """Returns the comment without its `Errors:` paragraph."""
        return re.split(r"(?:^|\s)Errors: ", self.of(full_name), maxsplit=1)[0].strip()

    def errors(self, method: str) -> str:
        """Returns the text after `Errors:` in an RPC's comment; empty when it is missing or says "none of its own"."""
        _, _, errors = self.of(method).partition("Errors: ")
        return "" if errors.startswith("none of its own") else errors.strip()



def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Path_]]:
    for index, message in enumerate(file.message_type):
        yield from _in_message(message, file.package, (_FILE_MESSAGE, index))
    for index, enum in enumerate(file.enum_type):
        yield from _in_enum(enum, file.package, (_FILE_ENUM, index))
    for index, extension in enumerate(file.extension):
        yield f"{file.package}.{extension.name}", (_FILE_EXTENSION, index)
    for index, service in enumerate(file.service):
        name, path = f"{file.package}.{service.name}", (_FILE_SERVICE, index)
        yield name, path
        for at, method in enumerate(service.method):
            yield f"{name}.{method.name}", (*path, _SERVICE_METHOD, at)


def _in_message(
    message: descriptor_pb2.DescriptorProto, scope: str, path: Path_
) -> Iterator[tuple[str, Path_]]:
    name = f"{scope}.{message.name}"
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _MESSAGE_FIELD, index)
    for index, nested in enumerate(message.nested_type):
        yield from _in_message(nested, name, (*path, _MESSAGE_NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from _in_enum(enum, name, (*path, _MESSAGE_ENUM, index))


def _in_enum(
    enum: descriptor_pb2.EnumDescriptorProto, scope: str, path: Path_
) -> Iterator[tuple[str, Path_]]:
    name = f"{scope}.{enum.name}"
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, _ENUM_VALUE, index)


def _prose(comment: str) -> str:
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
