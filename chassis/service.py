"""A service: what it serves, what it reacts to, and its life from start-up to drain."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import pydantic
import uvloop
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

from chassis import process
from chassis.contract import methods
from chassis.contract.event_types import event_type
from chassis.contract.methods import ContractError, MethodContract
from chassis.core.settings import Settings
from chassis.core.tasks import Worker, background, first
from chassis.data import bulkheads, idempotency_keys, pool_metrics, retention
from chassis.data.database import Database
from chassis.events import inbox, maintenance
from chassis.events.broker import Broker
from chassis.events.consumer import Consumer
from chassis.events.delivery import Policy
from chassis.events.relay import Relay
from chassis.events.revocations import RevocationFeed
from chassis.events.transaction import Handle
from chassis.observe import exporter, logs, metrics
from chassis.rpc import pipeline
from chassis.rpc.channels import MeshChannel
from chassis.rpc.identity_keys import identity_keys
from chassis.rpc.server import ListenError, Server
from chassis.rpc.stages.admission import Admission
from chassis.rpc.stages.per_caller import PerCaller
from chassis.trust.certificates import CertificateError, Certificates
from chassis.trust.keys import KeySource
from chassis.trust.revocations import Revocations
from chassis.trust.tokens import TokenVerifier

logger = logging.getLogger(__name__)

_DATABASE_PAUSE_SECONDS = 0.5
# How long a start waits for the revocations of before; then it serves without, since whoever stops a broker must not
# stop every restart with it (docs/decisions/serving-without-revocations.md).
REVOCATIONS_SECONDS = 5.0
# New objects between two looks for cycles. grpc.aio leaves some with each call; collected soon, while there are few,
# they keep the memory that calls work in small enough for the processor's caches.
_GARBAGE = 200

Compose = Callable[["Service"], Awaitable[None]]


class StartError(Exception):
    """The service cannot start; the text is one sentence that says why."""


class Service:
    """What a composition root fills: servicers, subscriptions, background work. See docs/chassis.md."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.certificates = Certificates.of(settings)
        self.mesh = MeshChannel(settings, self.certificates)
        self.revocations = Revocations()
        self._revocation_feed = RevocationFeed(self.revocations)
        # Identity puts its own keys here; everybody else fetches them from identity.
        self.token_keys: KeySource = identity_keys(self.mesh)
        self._servicers: list[tuple[dict[str, MethodContract], object]] = []
        self._subscriptions: dict[str, Mapping[type[Message], Handle]] = {}
        self._workers: list[Worker] = []

    @cached_property
    def database(self) -> Database:
        """The service's own database. StartError when the settings name none."""
        if not self.settings.database_url:
            raise StartError(f"{self.settings.service} needs a database: set PROTOMESH_DATABASE_URL.")
        return Database.of(self.settings)

    def serve(self, name: str, servicer: object, access: options_pb2.Access | None = None) -> None:
        """Serves a gRPC service by its full name. `access` is for contracts that are not ours.

        ContractError when the servicer lacks an RPC or has one too many, or when an RPC has no access.
        """
        served = methods.methods_of(name, access)
        _check(name, served, servicer)
        self._servicers.append((served, servicer))

    def subscribe(self, durable: str, handlers: Mapping[type[Message], Handle]) -> None:
        """Has `handle(event, envelope, work)` called for each event, in one transaction with the event's inbox row.

        Events of one aggregate come in order, across the types of a subscription. ContractError for a message that
        is not an event, or a name that is taken.
        """
        if durable in self._subscriptions:
            raise ContractError(f"There are two subscriptions of the name {durable}.")
        for message in handlers:
            try:
                event_type(message)
            except TypeError as error:
                raise ContractError(str(error)) from None
        self._subscriptions[durable] = handlers

    def background(self, worker: Worker) -> None:
        """Runs `worker()` beside the server; it is cancelled at the drain, and its failure ends the process."""
        self._workers.append(worker)

    async def run(self, until: asyncio.Event, ready: Callable[[int], None] = lambda _: None) -> None:
        """Serves until the event is set, then drains. `ready` gets the port once calls are answered.

        Raises what ended a background worker.
        """
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self.mesh.close)
            workers = await self._workers_with_parts(parts)
            server = Server(self.settings, self.certificates, self._receive_limit())
            server.register(self._handlers(), [next(iter(m.values())).service for m, _ in self._servicers])
            await server.start()
            # What is there now stays; the collector need not look at it again with every few hundred calls.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GARBAGE)
            async with background([partial(_beside, worker) for worker in workers]) as failed:
                await self._until_reachable(until)
                await self._until_informed()
                await server.serving(True)
                ready(server.port)
                logger.info("Serving on port %d.", server.port)
                await first(until, failed)
                await self._drain(server)

    async def _workers_with_parts(self, parts: contextlib.AsyncExitStack) -> list[Worker]:
        """Opens database and broker, to be closed with `parts`, and lists what runs beside the server."""
        workers = [self.token_keys.run, *self._workers]
        database = self.__dict__.get("database")
        if database is not None:
            await parts.enter_async_context(database)
            pool_metrics.watch_pool(database)
            workers.append(
                partial(retention.run, database, (maintenance.purge, inbox.purge, idempotency_keys.purge))
            )
        if not self.settings.nats_url:
            return workers
        settings = self.settings
        broker = await parts.enter_async_context(
            Broker(settings.nats_url, name=settings.service, replicas=settings.nats_replicas)
        )
        workers.append(partial(self._revocation_feed.follow, broker))
        if database is not None:
            workers.append(Relay(database, broker, self.settings.service).run)
            workers.extend(self._consumers(database, broker))
        return workers

    def _consumers(self, database: Database, broker: Broker) -> Iterator[Worker]:
        policy = Policy(self.settings.event_attempts, self.settings.event_backoff_seconds)
        for name, handlers in self._subscriptions.items():
            yield Consumer(database, broker, name=name, handlers=handlers, policy=policy).run

    async def _until_reachable(self, until: asyncio.Event) -> None:
        """Waits for the database to answer: a service that could only fail wants no calls."""
        database = self.__dict__.get("database")
        while database is not None and not until.is_set():
            try:
                async with database.connection() as connection:
                    await connection.execute("SELECT 1")
            except Exception as error:  # noqa: BLE001 (whatever it is, there is no database yet)
                logger.warning("Waiting for the database: %s", type(error).__name__)
                await asyncio.sleep(_DATABASE_PAUSE_SECONDS)
            else:
                return

    async def _until_informed(self) -> None:
        """Waits, for a while, until those sessions are known that ended before the start."""
        if self.settings.nats_url and not await self._revocation_feed.caught_up(REVOCATIONS_SECONDS):
            logger.warning(
                "NATS does not answer. Serving all the same: tokens of sessions that ended within the last "
                "10 minutes are taken for good until NATS is back."
            )

    def _handlers(self) -> dict[str, Any]:
        parts = self._parts()
        return {
            method.path: pipeline.compile_rpc(method, getattr(servicer, name), parts)
            for methods, servicer in self._servicers
            for name, method in methods.items()
        }

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
            receive_limit=self._receive_limit(),
            database=self.__dict__.get("database"),
            check_reasons=settings.check_reasons,
        )

    def _receive_limit(self) -> int:
        limits = [method.max_request_bytes for methods, _ in self._servicers for method in methods.values()]
        return max(limits, default=methods.DEFAULT_MAX_REQUEST_BYTES)

    async def _drain(self, server: Server) -> None:
        logger.info("Draining.")
        await server.serving(False)
        await asyncio.sleep(self.settings.drain_wait_seconds)
        await server.stop(self.settings.drain_seconds)


async def _beside(worker: Worker) -> None:
    """Runs a worker on the connections that calls do not use."""
    bulkheads.current.set("background")
    await worker()


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


def run(name: str, compose: Compose, settings: type[Settings] = Settings) -> None:
    """The entry point of a deployable: reads settings, composes, serves, drains on SIGTERM or SIGINT."""
    try:
        values = settings(service=name)
    except pydantic.ValidationError as error:
        sys.exit("\n".join(f"{name}: {_sentence(problem)}" for problem in error.errors()))
    logs.set_up(name, values.log_level)
    process.schedule_for_throughput()
    try:
        uvloop.run(_live(values, compose))
    except (StartError, ContractError, CertificateError, ListenError) as error:
        sys.exit(f"{name} cannot start: {error}")


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
        httpd, _ = metrics.serve(settings.metrics_port)
    except OSError:
        raise StartError(f"the metrics port {settings.metrics_port} is taken.") from None
    try:
        await compose(service)
        await service.run(stop)
    finally:
        httpd.shutdown()
        await asyncio.to_thread(recorder.shutdown)
