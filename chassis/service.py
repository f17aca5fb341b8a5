"""A service: what it serves, what it subscribes to, and its lifecycle from start-up to drain."""

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, partial
from typing import Any, get_args

import pydantic
import uvloop
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

from chassis import process
from chassis.contract.event_types import event_type
from chassis.contract.methods import ContractError
from chassis.core.settings import Role, Settings
from chassis.core.tasks import Worker, background, first
from chassis.data import pool_metrics
from chassis.data.database import Database
from chassis.events.broker import Broker
from chassis.events.live import Live
from chassis.events.revocations import RevocationFeed
from chassis.events.transaction import Handle
from chassis.observe import exporter, logs, metrics
from chassis.observe.sdk import ExporterError
from chassis.rpc import pipeline
from chassis.rpc.channels import MeshChannel
from chassis.rpc.server import ListenError, Server
from chassis.rpc.servicers import Servicers
from chassis.rpc.stages.admission import Admission
from chassis.rpc.stages.per_caller import PerCaller
from chassis.rpc.token_keys import identity_keys
from chassis.trust.certificates import CertificateError, Certificates
from chassis.trust.keys import KeySource
from chassis.trust.revocations import Revocations
from chassis.trust.tokens import TokenVerifier
from chassis.workers import Workers

logger = logging.getLogger(__name__)

_DATABASE_PAUSE_SECONDS = 0.5
# How long a start waits for earlier revocations; then it serves without them, since an outage of the broker must not
# block every restart (docs/decisions/serving-without-revocations.md).
REVOCATIONS_SECONDS = 5.0
# New objects between two garbage collections. grpc.aio leaves some cycles with each call; collecting them early, while
# there are few, keeps the memory that calls use small enough for the processor's caches.
_GARBAGE = 200

Compose = Callable[["Service"], Awaitable[None]]


class StartError(Exception):
    """The service cannot start; the message is one sentence that says why."""


class Service:
    """The object that a composition root fills: servicers, subscriptions, background work. See docs/chassis.md."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.certificates = Certificates.of(settings)
        self.mesh = MeshChannel(settings, self.certificates)
        self.revocations = Revocations()
        self._revocation_feed = RevocationFeed(self.revocations)
        # Identity sets its own keys here; all other services fetch them from identity.
        self.token_keys: KeySource = identity_keys(self.mesh)
        self._servicers = Servicers()
        self._subscriptions: dict[str, Mapping[type[Message], Handle]] = {}
        self._live_events: list[Live] = []
        self._workers = Workers(settings)

    @cached_property
    def database(self) -> Database:
        """The service's own database. Raises StartError when the settings name none."""
        if not self.settings.database_url:
            raise StartError(f"{self.settings.service} needs a database: set PROTOMESH_DATABASE_URL.")
        return Database.of(self.settings)

    def serve(self, name: str, servicer: object, access: options_pb2.Access | None = None) -> None:
        """Serves a gRPC service by its full name. `access` is for contracts that are not ours.

        Raises ContractError when the servicer lacks an RPC or has one too many, or when an RPC has no access.
        """
        self._servicers.add(name, servicer, access)

    def subscribe(self, durable: str, handlers: Mapping[type[Message], Handle]) -> None:
        """Calls `handle(event, envelope, work)` for each event, in one transaction with the event's inbox row.

        Events of one aggregate come in order, across the types of a subscription. Raises ContractError for a message
        that is not an event, an event whose contract does not list the subscription, or a name that is taken.
        """
        if durable in self._subscriptions:
            raise ContractError(f"There are two subscriptions named {durable}; give each one its own name.")
        for message in handlers:
            try:
                kind = event_type(message)
            except TypeError as error:
                raise ContractError(str(error)) from None
            if durable not in kind.subscribers:
                raise ContractError(
                    f"{kind.name} does not list {durable} among its `subscribers`: add it there."
                )
        self._subscriptions[durable] = handlers

    def live(self, *events: type[Message]) -> Live:
        """Returns watchers that these events wake once they are published. Without NATS, watchers poll."""
        live = Live(*events)
        self._live_events.append(live)
        return live

    def background(self, worker: Worker) -> None:
        """Runs `worker()` in the processes that do background work: all of them, or those with `--role worker`.

        It is cancelled when the process drains; if it fails, the process ends.
        """
        self._workers.background(worker)

    def beside_server(self, worker: Worker) -> None:
        """Runs `worker()` in every process with a server, such as a worker that keeps in-memory data up to date."""
        self._workers.beside_server(worker)

    async def run(self, until: asyncio.Event, ready: Callable[[int], None] = lambda _: None) -> None:
        """Serves until the event is set, then drains. Calls `ready` with the port once the server serves calls.

        Raises StartError, and the error that ended a worker once the server has drained.
        """
        if self._subscriptions and not self.settings.nats_url:
            raise StartError(f"{self.settings.service} subscribes to events: set PROTOMESH_NATS_URL.")
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self.mesh.close)
            await self._open_parts(parts)
            # A worker process has a server too, for its health checks.
            served = self._servicers if self.settings.role != "worker" else Servicers()
            server = Server(self.settings, self.certificates, served.receive_limit())
            server.register(served.handlers(self._parts()), served.names())
            await server.start()
            # Objects that exist now are permanent, so the collector need not check them again every few hundred calls.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GARBAGE)
            async with background(list(self._workers)) as failed:
                await self._live(server, first(until, failed), ready)

    async def _live(self, server: Server, end: Awaitable[None], ready: Callable[[int], None]) -> None:
        """Serves from the moment the service is ready until its end, whatever that is, then drains."""
        ending, starting = asyncio.ensure_future(end), asyncio.ensure_future(self._until_ready())
        try:
            await asyncio.wait((ending, starting), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                starting.result()
                await server.serving(True)
                ready(server.port)
                logger.info("Serving on port %d.", server.port)
                await asyncio.wait((ending,))
                logger.log(logging.ERROR if ending.exception() else logging.INFO, "Draining.")
                await self._drain(server)
            ending.result()
        finally:
            starting.cancel()
            ending.cancel()
            await server.stop(0)

    async def _open_parts(self, parts: contextlib.AsyncExitStack) -> None:
        """Opens the database and the broker, to be closed with `parts`, and adds the workers that need them."""
        self._workers.beside_server(self.token_keys.run)
        settings = self.settings
        # A service with subscriptions needs a database for the inbox.
        database = self.database if self._subscriptions else self.__dict__.get("database")
        if database is not None:
            await parts.enter_async_context(database)
            pool_metrics.watch_pool(database)
            self._workers.keep_tables(database)
        if settings.nats_url:
            try:
                broker = Broker(settings.nats_url, name=settings.service, replicas=settings.nats_replicas)
            except ValueError as error:
                raise StartError(f"PROTOMESH_NATS_URL: {error}.") from None
            await parts.enter_async_context(broker)
            self._workers.beside_server(partial(self._revocation_feed.follow, broker))
            for live in self._live_events:
                self._workers.beside_server(partial(live.follow, broker))
            if database is not None:
                self._workers.events(database, broker, self._subscriptions)

    async def _until_ready(self) -> None:
        await self._until_reachable()
        if self.settings.role != "worker":
            await self._until_informed()

    async def _until_reachable(self) -> None:
        """Waits until the database responds: a service that could only fail calls should not get any."""
        database = self.__dict__.get("database")
        while database is not None:
            try:
                async with database.connection() as connection:
                    await connection.execute("SELECT 1")
            except Exception as error:  # noqa: BLE001 (whatever fails, the database is not available yet)
                logger.warning("Waiting for the database: %s", type(error).__name__)
                await asyncio.sleep(_DATABASE_PAUSE_SECONDS)
            else:
                return

    async def _until_informed(self) -> None:
        """Waits for a limited time until the sessions that ended before the start are known."""
        if self.settings.nats_url and not await self._revocation_feed.caught_up(REVOCATIONS_SECONDS):
            logger.warning(
                "NATS does not answer. Serving without revocations: tokens of sessions that ended within the last "
                "10 minutes are accepted until NATS is back."
            )

    def _parts(self) -> pipeline.Parts:
        settings = self.settings
        verifier = TokenVerifier(
            self.token_keys, self.revocations, issuer=settings.token_issuer, audience=settings.token_audience
        )
        return pipeline.Parts(
            verifier=verifier,
            admission=Admission(settings.maximum_concurrent_rpcs, settings.maximum_concurrent_streams),
            per_caller=PerCaller(settings.maximum_calls_per_caller, settings.maximum_streams_per_caller),
            trust_domain=settings.trust_domain,
            receive_limit=self._servicers.receive_limit(),
            database=self.__dict__.get("database"),
            check_reasons=settings.check_reasons,
        )

    async def _drain(self, server: Server) -> None:
        await server.serving(False)
        await asyncio.sleep(self.settings.drain_wait_seconds)
        await server.stop(self.settings.drain_seconds)


def run(name: str, compose: Compose, settings: type[Settings] = Settings) -> None:
    """Runs a deployable: reads settings, composes the service, serves, and drains on SIGTERM or SIGINT."""
    given = _arguments(name)
    try:
        values = settings(service=name, **given)
    except pydantic.ValidationError as error:
        sys.exit("\n".join(f"{name}: {_sentence(problem)}" for problem in error.errors()))
    logs.set_up(name, values.log_level)
    process.schedule_for_throughput()
    try:
        uvloop.run(_live(values, compose))
    except (StartError, ContractError, CertificateError, ListenError, ExporterError) as error:
        sys.exit(f"{name} cannot start: {error}")


def _arguments(name: str) -> dict[str, Any]:
    """Returns the settings from the command line."""
    parser = argparse.ArgumentParser(prog=f"services.{name}")
    parser.add_argument(
        "--role",
        choices=get_args(Role),
        help="The part of the service that this process runs; all by default.",
    )
    return {key: value for key, value in vars(parser.parse_args()).items() if value is not None}


def _sentence(problem: Any) -> str:
    variable = "PROTOMESH_" + "_".join(str(part) for part in problem["loc"]).upper()
    return f"{variable} is not valid: {problem['msg']}."


async def _live(settings: Settings, compose: Compose) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = Service(settings)
    recorder = exporter.set_up(settings, service.certificates)
    try:
        metrics.serve(settings.metrics_port)
    except OSError:
        raise StartError(f"the metrics port {settings.metrics_port} is taken.") from None
    try:
        await compose(service)
        await service.run(stop)
    finally:
        await asyncio.to_thread(recorder.shutdown)
