"""Contracts for tests and benchmarks, compiled when they are needed: no generated code, no place in the platform."""

import pathlib
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc

from chassis import contract

_IMAGE = pathlib.Path(__file__).parents[1] / "gen" / "descriptors" / "protomesh.binpb"


def load(name: str, text: str) -> None:
    """Compiles a proto file that may import ours, and makes its contracts known to this process."""
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
        contract.register(pool.FindFileByName(file.name))
