"""Compiles the contracts into typed Python modules and the descriptor image from which the rest is derived."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.rpc import status_pb2
from protovalidate._gen.buf.validate import validate_pb

VALIDATE_PROTO = "buf/validate/validate.proto"
# Error details travel inside `Any`: Envoy can write them as JSON only when the image holds their types.
ERROR_PROTOS = ["google/rpc/error_details.proto", "google/rpc/status.proto"]


class ContractError(Exception):
    """A contract that does not compile. The message is protoc's, with file, line and error."""


def compile_contracts(proto: Path, python: Path, image: Path) -> None:
    """Compiles every file under `proto` into modules under `python` and into one FileDescriptorSet at `image`.

    The image holds imports and source comments. Raises ContractError.
    """
    contracts = sorted(path.relative_to(proto).as_posix() for path in proto.rglob("*.proto"))
    python.mkdir(parents=True, exist_ok=True)
    image.parent.mkdir(parents=True, exist_ok=True)
    validate = image.with_suffix(".validate")
    validate.write_bytes(_validate_descriptors().SerializeToString(deterministic=True))
    try:
        sources = [f"--proto_path={proto}", *_foreign_sources(), f"--descriptor_set_in={validate}"]
        _protoc(
            [*sources, f"--python_out={python}", f"--mypy_out=quiet:{python}", *contracts, VALIDATE_PROTO]
        )
        stubs = [f"--grpc_python_out={python}", f"--mypy_grpc_out=quiet:{python}"]
        _protoc([*sources, *stubs, *_with_services(proto, contracts)])
        whole = [f"--descriptor_set_out={image}", "--include_imports", "--include_source_info"]
        _protoc([*sources, *whole, *contracts, *ERROR_PROTOS])
    finally:
        validate.unlink()
    _make_packages(python)


def _protoc(arguments: Sequence[str]) -> None:
    plugins = [f"--plugin={path}" for path in sorted(Path(sys.executable).parent.glob("protoc-gen-mypy*"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", *plugins, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ContractError(result.stderr.strip() or f"protoc ended with {result.returncode}")


def _foreign_sources() -> list[str]:
    # The google/api and google/rpc sources come with googleapis-common-protos, the well-known types with grpcio-tools.
    common = Path(str(status_pb2.__file__)).parents[2]
    return [f"--proto_path={common}", f"--proto_path={files('grpc_tools')}/_proto"]


def _validate_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Writes validate.proto from its descriptor in protovalidate, since no package ships the source."""
    imports = [
        descriptor_pb2.DESCRIPTOR,
        duration_pb2.DESCRIPTOR,
        field_mask_pb2.DESCRIPTOR,
        timestamp_pb2.DESCRIPTOR,
    ]
    descriptors = descriptor_pb2.FileDescriptorSet()
    for module in imports:
        module.CopyToProto(descriptors.file.add())
    descriptors.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return descriptors


def _with_services(proto: Path, contracts: Sequence[str]) -> list[str]:
    # Modules for files without services hold no stubs.
    return [name for name in contracts if "\nservice " in (proto / name).read_text()]


def _make_packages(python: Path) -> None:
    """Makes `protomesh` a typed package. `buf` stays a namespace package, since other wheels may add modules to it."""
    root = python / "protomesh"
    for directory in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (directory / "__init__.py").touch()
    (root / "py.typed").touch()
    (python / "buf" / "validate" / "py.typed").touch()
