"""All contracts of the platform, generated and registered, with lookup of RPCs and permissions by name."""

import functools
import importlib
import pathlib
from collections.abc import Mapping, Sequence

import protomesh
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from protomesh.options.v1 import options_pb2

from chassis.contract.methods import ADMIN, ContractError, MethodContract, parse_method

_registered: list[FileDescriptor] = []


def service_descriptor(full_name: str) -> ServiceDescriptor:
    """The descriptor of a service; loads all generated modules when no loaded module has it.

    Raises ContractError when no contract has the service.
    """
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(full_name)
    except KeyError:
        files()
    try:
        return pool.FindServiceByName(full_name)
    except KeyError:
        raise ContractError(f"No contract defines the service {full_name}.") from None


def methods_of(service: str, access: options_pb2.Access | None = None) -> dict[str, MethodContract]:
    """The contracts of a service's RPCs, by RPC name."""
    return {method.name: parse_method(method, access) for method in service_descriptor(service).methods}


@functools.cache
def method_at(path: str) -> MethodContract:
    """The contract behind a call path such as `/protomesh.catalog.v1.ProductService/GetProduct`."""
    service, _, name = path.lstrip("/").rpartition("/")
    try:
        return parse_method(service_descriptor(service).methods_by_name[name])
    except KeyError:
        raise ContractError(f"No contract defines the RPC {path}.") from None


@functools.cache
def files() -> Sequence[FileDescriptor]:
    """The descriptors of all generated files of the platform, sorted by name. Imports them all."""
    roots = [pathlib.Path(root) for root in protomesh.__path__]
    names = {
        ".".join(("protomesh", *module.relative_to(root).with_suffix("").parts))
        for root in roots
        for module in root.rglob("*_pb2.py")
    }
    return [importlib.import_module(name).DESCRIPTOR for name in sorted(names)]


def register(file: FileDescriptor) -> None:
    """Adds contracts that are not generated with the platform's, such as those of a benchmark or a plug-in."""
    _registered.append(file)
    _forget_what_was_derived()


def unregister(file: FileDescriptor) -> None:
    """Removes contracts that `register` added."""
    _registered.remove(file)
    _forget_what_was_derived()


def _forget_what_was_derived() -> None:
    platform.cache_clear()
    permissions.cache_clear()
    permissions_of.cache_clear()


@functools.cache
def platform() -> Sequence[MethodContract]:
    """The contracts of every RPC of the platform."""
    services = (service for file in (*files(), *_registered) for service in file.services_by_name.values())
    return [parse_method(method) for service in services for method in service.methods]


@functools.cache
def permissions() -> Mapping[str, frozenset[str]]:
    """Every permission of the platform, with the built-in roles other than admin that grant it."""
    granted: dict[str, frozenset[str]] = {}
    for access in (method.access for method in platform()):
        if access is not None and access.permission:
            granted[access.permission] = granted.get(access.permission, frozenset()) | access.granted_to
    return granted


@functools.cache
def permissions_of(role: str) -> frozenset[str]:
    """The permissions that the contracts grant a built-in role. `admin` has all; an unknown role has none."""
    return frozenset(name for name, roles in permissions().items() if role == ADMIN or role in roles)
