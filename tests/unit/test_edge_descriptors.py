"""What the transcoder reads of the contracts."""

from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from protomesh.options.v1 import options_pb2

from meshctl.edge import descriptors

IMAGE = (Path(__file__).resolve().parents[2] / "gen/descriptors/protomesh.binpb").read_bytes()


def test_the_transcoder_gets_every_path_and_message_and_no_option_of_ours() -> None:
    whole = descriptor_pb2.FileDescriptorSet.FromString(IMAGE)
    slim = descriptor_pb2.FileDescriptorSet.FromString(descriptors.for_transcoder(IMAGE))
    assert paths(slim) == paths(whole)
    assert paths(slim)
    assert fields(slim) == fields(whole)
    assert options_pb2.DESCRIPTOR.package + ".example" in options(whole)
    assert not options(slim)


def paths(files: descriptor_pb2.FileDescriptorSet) -> list[bytes]:
    http: Any = annotations_pb2.http
    methods = (method for file in files.file for service in file.service for method in service.method)
    return [method.options.Extensions[http].SerializeToString() for method in methods]


def fields(files: descriptor_pb2.FileDescriptorSet) -> list[tuple[str, str, int, str]]:
    held = (message for file in files.file for message in file.message_type)
    return [
        (message.name, field.json_name, field.type, field.type_name)
        for message in held
        for field in message.field
    ]


def options(files: descriptor_pb2.FileDescriptorSet) -> set[str]:
    held = (message for file in files.file for message in file.message_type)
    given = (field.options.ListFields() for message in held for field in message.field)
    return {option.full_name for options in given for option, _ in options if option.is_extension}
