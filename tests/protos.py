"""Contracts for tests and benchmarks, compiled when they are needed: no generated code, no place in the platform."""

import pathlib
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_tools import protoc

from chassis import contract

_IMAGE = pathlib.Path(__file__).parents[1] / "gen" / "descriptors" / "protomesh.binpb"


def load(name: str, text: str) -> None:
    """Compiles a proto file that may import ours, and makes its contracts part of the platform in this process."""
    for file in compiled(name, text):
        contract.register(file)


def compiled(name: str, text: str) -> list[FileDescriptor]:
    """Compiles a proto file that may import ours; its services can be looked up, and are no part of the platform."""
    with tempfile.TemporaryDirectory() as folder:
        source, image = pathlib.Path(folder, name), pathlib.Path(folder, "image")
        source.write_text(text)
        arguments = [
            "protoc",
            f"-I{folder}",
            f"--descriptor_set_in={_IMAGE}",
            f"--descriptor_set_out={image}",
        ]
        if protoc.main([*arguments, name]) != 0:
            raise ValueError(f"{name} does not compile.")
        files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    pool = descriptor_pool.Default()
    contract.files()  # the pool must hold what the file imports
    for file in files:
        pool.Add(file)
    return [pool.FindFileByName(file.name) for file in files]
