"""The servicers of a process: checked against their contracts, and compiled to handlers."""

from protomesh.options.v1 import options_pb2

from chassis.contract.methods import DEFAULT_MAX_REQUEST_BYTES, ContractError, MethodContract
from chassis.contract.registry import methods_of
from chassis.rpc import pipeline
from chassis.rpc.pipeline import Handler


class Servicers:
    """The servicers of a process, which handle the RPCs of its gRPC services."""

    def __init__(self) -> None:
        self._servicers: list[tuple[dict[str, MethodContract], object]] = []

    def add(self, name: str, servicer: object, access: options_pb2.Access | None = None) -> None:
        """Adds the servicer of a gRPC service by its full name. `access` is for contracts that are not ours.

        Raises ContractError when the servicer lacks an RPC or has one too many, or when an RPC has no access.
        """
        served = methods_of(name, access)
        _check(name, served, servicer)
        self._servicers.append((served, servicer))

    def handlers(self, parts: pipeline.Parts) -> dict[str, Handler]:
        """Returns the compiled pipeline of each RPC, by its path."""
        return {
            method.path: pipeline.compile_rpc(method, getattr(servicer, name), parts)
            for served, servicer in self._servicers
            for name, method in served.items()
        }

    def names(self) -> list[str]:
        """Returns the full names of the gRPC services."""
        return [next(iter(served.values())).service for served, _ in self._servicers]

    def receive_limit(self) -> int:
        """Returns the size of the largest request that any of the RPCs accepts, in bytes."""
        limits = [method.max_request_bytes for served, _ in self._servicers for method in served.values()]
        return max(limits, default=DEFAULT_MAX_REQUEST_BYTES)


def _check(name: str, methods: dict[str, MethodContract], servicer: object) -> None:
    has = {
        attribute
        for attribute in dir(servicer)
        if attribute[0].isupper() and callable(getattr(servicer, attribute))
    }
    for missing in sorted(methods.keys() - has):
        raise ContractError(f"{type(servicer).__name__} lacks {missing}, which {name} has.")
    for extra in sorted(has - methods.keys()):
        raise ContractError(f"{type(servicer).__name__} has {extra}, which {name} lacks.")
    for method in methods.values():
        if method.access is None:
            raise ContractError(f"{method.full_name} has no access option, so nobody may call it.")
