"""The gRPC server of a process: its listener, health, reflection, and the status for RPCs that do not exist."""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from chassis.core.errors import STATUS_DETAILS, Unimplemented
from chassis.core.settings import Settings
from chassis.rpc import pipeline
from chassis.rpc.pipeline import Handler
from chassis.trust.certificates import Certificates

# More than the edge lets pass (8 KiB, where gRPC adds 32 bytes for each header): gRPC's own refusal lists the headers'
# names.
MAX_METADATA_BYTES = 16 * 1024
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
# The minimum pause between a client's pings: half of the pause that our own channels leave.
_PING_INTERVAL_MS = 1_000
_CONNECTION_AGE_MS = 30 * 60 * 1000
_CONNECTION_GRACE_MS = 30 * 1000

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class ListenError(Exception):
    """The server cannot listen on its address."""


class Server:
    """A grpc.aio server with mTLS, health and reflection."""

    def __init__(self, settings: Settings, certificates: Certificates | None, receive_limit: int) -> None:
        calls, streams = settings.maximum_concurrent_rpcs, settings.maximum_concurrent_streams
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", receive_limit),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MS),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
                ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_MS),
                # Otherwise two processes on one port would silently share it.
                ("grpc.so_reuseport", 0),
                # The admission stage refuses with a full status; this is the hard limit behind it, for each connection,
                # and counts watches too. The limit of grpc.aio itself would cost every call a callback.
                ("grpc.max_concurrent_streams", 2 * (calls + streams)),
            ),
        )
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self.port = self._listen(settings, certificates)

    def _listen(self, settings: Settings, certificates: Certificates | None) -> int:
        address = f"{settings.host}:{settings.port}"
        try:
            if certificates is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, certificates.server_credentials())
        except RuntimeError:
            raise ListenError(
                f"Cannot listen on {address}: the port is taken, or requires more privileges. Choose another port."
            ) from None

    def register(self, handlers: Mapping[str, Handler], services: Iterable[str]) -> None:
        """Registers the handlers of all RPCs by path, and the service names for health and reflection."""
        self._names = ["", *services]
        # gRPC tries one after the other, so the RPCs that are called most come first.
        self._server.add_generic_rpc_handlers((_Handlers(handlers),))
        generic = _GenericOnly(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, generic)  # type: ignore[arg-type]
        known = (*self._names[1:], health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            ReflectionServicer(known), generic
        )
        self._server.add_generic_rpc_handlers((_Unimplemented(),))

    async def start(self) -> None:
        """Starts to accept calls; reports NOT_SERVING until `serving(True)`."""
        await self.serving(False)
        await self._server.start()

    async def serving(self, ready: bool) -> None:
        """Reports to load balancers whether to send calls."""
        for name in self._names:
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Accepts no new calls, and gives running ones `grace` seconds."""
        await self._server.stop(grace)


class _GenericOnly:
    """A stand-in for the server to generated code, which would also register each of its methods with the core.

    For each call that arrives, grpc.aio waits again on every registered method, so each one would slow down all calls.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Does nothing: the generic handlers serve these methods."""


class _Handlers(grpc.GenericRpcHandler):
    """The handlers by path."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)

    def service(self, handler_call_details: Any) -> "Handler | None":
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            pipeline.metadata.set(dict(handler_call_details.invocation_metadata or ()))
        return handler


class _Unimplemented(grpc.GenericRpcHandler):
    """The last handler: fails RPCs that do not exist with UNIMPLEMENTED, in the same form as every other failure."""

    def service(self, handler_call_details: Any) -> Handler:
        return _UNIMPLEMENTED


async def _unimplemented(_request: Any, context: Any) -> None:
    error = Unimplemented("UNIMPLEMENTED", "There is no such RPC.")
    details = (STATUS_DETAILS, error.status().SerializeToString())
    await context.abort(error.code, error.message, (details,))


_UNIMPLEMENTED: Handler = grpc.unary_unary_rpc_method_handler(_unimplemented)
