"""Workers: the tasks that run in a service's process besides its server, by the role of the process."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial

from google.protobuf.message import Message

from chassis.core.settings import Settings
from chassis.core.tasks import Worker
from chassis.data import audit_records, bulkheads, idempotency_keys, retention
from chassis.data.database import Database
from chassis.events import inbox, maintenance, wakeup
from chassis.events.broker import Broker
from chassis.events.consumer import Consumer
from chassis.events.delivery import Policy
from chassis.events.relay import Relay
from chassis.events.transaction import Handle

_PURGES = (maintenance.purge, inbox.purge, idempotency_keys.purge)


class Workers:
    """The workers of a process: those that belong to its server, and those that any process of the service may run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._beside_server: list[Worker] = []
        self._background: list[Worker] = []

    def beside_server(self, worker: Worker) -> None:
        """Adds a worker that every process with a server runs."""
        self._beside_server.append(worker)

    def background(self, worker: Worker) -> None:
        """Adds a worker that may run apart from the server."""
        self._background.append(worker)

    def events(
        self,
        database: Database,
        broker: Broker,
        subscriptions: Mapping[str, Mapping[type[Message], Handle]],
    ) -> None:
        """Adds the workers that send and handle events."""
        settings = self._settings
        self.background(Relay(database, broker, settings.service).run)
        policy = Policy(settings.event_attempts, settings.event_backoff_seconds)
        for name, handlers in subscriptions.items():
            self.background(Consumer(database, broker, name=name, handlers=handlers, policy=policy).run)
        if settings.role == "server":
            self.beside_server(partial(wakeup.announce, database, broker))

    def __iter__(self) -> Iterator[Worker]:
        """Yields the workers of this process's role; each uses connections that calls do not use."""
        if self._settings.role != "worker":
            yield from (partial(_apart, worker) for worker in self._beside_server)
        if self._settings.role != "server":
            yield from (partial(_apart, worker) for worker in self._background)

    def keep_tables(self, database: Database) -> None:
        """Adds the worker that deletes old rows of the chassis's tables."""
        kept = timedelta(days=self._settings.audit_days)
        purges = (*_PURGES, partial(audit_records.purge, kept=kept))
        self.background(partial(retention.run, database, purges))


async def _apart(worker: Worker) -> None:
    bulkheads.current.set("background")
    await worker()
