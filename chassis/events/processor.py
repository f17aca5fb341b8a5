"""The processor: handles each delivery, puts it back, or gives it up."""

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence

import nats.errors
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from chassis.events import dead_letters, outages
from chassis.events.broker import Broker
from chassis.events.delivery import Delivery, Policy
from chassis.events.inbox import Inbox
from chassis.events.transaction import HandlerError, InboxError, Transactions
from chassis.observe import logs

logger = logging.getLogger(__name__)

# Whether one of a delivery's predecessors that the inbox lacks can still come.
IsComing = Callable[[Delivery, Sequence[uuid.UUID]], Awaitable[bool]]

HANDLED = Counter("consumer_events", "Deliveries by how they ended.", ["consumer", "outcome"])

# In a batch, an event must not hold up the others; handled alone, it gets the time that the policy allows.
_LONGEST_BATCH_SECONDS = 5.0
# The pauses double from delivery to delivery.
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 5.0
_FIRST_OUTAGE_SECONDS, _LONGEST_OUTAGE_SECONDS = 1.0, 30.0
_WAITS_BEFORE_LOOKING = 3
_REMEMBERED = 10_000
_PROCESS_ENDED = "The process ended while it handled the event."


class Processor:
    """Handles and acknowledges each delivery of a consumer. It raises nothing but a cancellation."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        inbox: Inbox,
        transactions: Transactions,
        is_coming: IsComing,
        policy: Policy,
    ) -> None:
        self._broker = broker
        self._name = name
        self._inbox = inbox
        self._transactions = transactions
        self._is_coming = is_coming
        self._policy = policy
        # Looking up a counter by its labels takes a lock.
        self._counter = functools.cache(functools.partial(HANDLED.labels, name))
        self._suspects = asyncio.Lock()
        # Events that this process put back without an attempt, oldest first.
        self._put_back: dict[uuid.UUID, None] = {}
        # Recorded attempts that an outage cut short; they are taken off the record when the database is back.
        self._cut_short: set[uuid.UUID] = set()
        self.draining = False

    def is_fresh(self, delivery: Delivery) -> bool:
        """Whether a delivery has no failed attempt: it comes for the first time, or was only put back here."""
        return delivery.deliveries == 1 or delivery.event_id in self._put_back

    async def fresh(self, batch: Sequence[Delivery]) -> None:
        """Handles fresh deliveries of different aggregates in as few transactions as possible.

        When one of them fails, each is handled in a separate transaction, and the failing one last.
        """
        left = [delivery for delivery in batch if not await self._refused(delivery)]
        while len(left) > 1:
            try:
                left = await self._together(left)
            except Exception as error:  # noqa: BLE001 (handled alone, the event that fails shows why)
                if outages.is_database_outage(error):
                    for delivery in left:
                        await self._answer(delivery, self._interrupted(delivery, error))
                    return
                if isinstance(error, HandlerError):
                    culprit = error.delivery
                    left.sort(key=lambda delivery: delivery is culprit)
                break
        for delivery in left:
            await self._answer(delivery, self._attempt(delivery))

    async def again(self, delivery: Delivery) -> None:
        """Handles a delivery that came before, according to what is on record about it."""
        if not await self._refused(delivery):
            await self._answer(delivery, self._repeat(delivery))

    async def _refused(self, delivery: Delivery) -> bool:
        """Acknowledges a delivery that no handler should get; returns whether it was one."""
        if self.draining:
            await self._answer(delivery, self._later(delivery, 0, "drained"))
        elif delivery.replay_for not in ("", self._name):
            await self._answer(delivery, self._acknowledge(delivery, "foreign"))
        elif not _is_readable(delivery):
            error = f"The payload is not a {delivery.type.name}."
            await self._answer(delivery, self._bury(delivery, 1, error))
        else:
            return False
        return True

    async def _answer(self, delivery: Delivery, answer: Awaitable[str]) -> None:
        try:
            outcome = await answer
        except Exception as error:  # noqa: BLE001 (PostgreSQL or NATS is unreachable; JetStream delivers it again)
            outcome = await self._interrupted(delivery, error)
        self._counter(outcome).inc()

    async def _together(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Handles deliveries in one transaction; returns those that it had no time for."""
        outcomes = await self._transactions.run(batch, handle_within=_LONGEST_BATCH_SECONDS)
        for delivery, outcome in outcomes.items():
            await self._answer(delivery, self._ended(delivery, outcome))
        return [delivery for delivery in batch if delivery not in outcomes]

    async def _attempt(self, delivery: Delivery, *, on_record: bool = False, in_turn: bool = False) -> str:
        """Handles a single delivery. `on_record`: the attempt is already counted."""
        within = self._policy.handle_within
        try:
            [outcome] = (
                await self._transactions.run([delivery], handle_within=within, in_turn=in_turn)
            ).values()
        except Exception as error:
            if isinstance(error, InboxError) or outages.is_outage(error):
                if on_record:
                    self._cut_short.add(delivery.event_id)
                raise
            cause = error.__cause__ if isinstance(error, HandlerError) else None
            return await self._failed(delivery, cause or error, on_record=on_record)
        if on_record and outcome == "waiting":
            self._cut_short.add(delivery.event_id)
        return await self._ended(delivery, outcome)

    async def _repeat(self, delivery: Delivery) -> str:
        await self._settle()
        failure = await self._inbox.failure(delivery.event_id)
        if failure is not None and failure.attempts >= self._policy.attempts:
            return await self._bury(delivery, failure.attempts, failure.error)
        if failure is not None and failure.seconds > 0:
            return await self._later(delivery, failure.seconds, "early")
        if await self._inbox.missing(self._transactions.predecessors(delivery)):
            return await self._wait_for_turn(delivery)
        # The event may have killed the last process. Suspects are handled one at a time, so that a crash shows which.
        suspect = failure is None or failure.error == _PROCESS_ENDED
        async with self._suspects if suspect else contextlib.nullcontext():
            if self.draining:
                return await self._later(delivery, 0, "drained")
            # Recorded beforehand, so that an event that kills the process is eventually given up as well.
            await self._inbox.fail(delivery.event_id, delivery.aggregate_id, _PROCESS_ENDED, self._policy)
            return await self._attempt(delivery, on_record=True)

    async def _settle(self) -> None:
        """Takes attempts that outages cut short off the record."""
        cut_short = tuple(self._cut_short)
        await self._inbox.withdraw(cut_short)
        self._cut_short.difference_update(cut_short)

    async def _ended(self, delivery: Delivery, outcome: str) -> str:
        if outcome == "waiting":
            return await self._wait_for_turn(delivery)
        self._put_back.pop(delivery.event_id, None)
        return await self._acknowledge(delivery, outcome)

    async def _acknowledge(self, delivery: Delivery, outcome: str) -> str:
        await delivery.acknowledge()
        return outcome

    async def _later(self, delivery: Delivery, seconds: float, outcome: str) -> str:
        await delivery.later(seconds)
        return outcome

    async def _failed(self, delivery: Delivery, error: BaseException, *, on_record: bool) -> str:
        text = logs.clean(f"{type(error).__name__}: {error}")
        try:
            failure = await self._inbox.fail(
                delivery.event_id, delivery.aggregate_id, text, self._policy, count=0 if on_record else 1
            )
        except Exception:
            # The database responds to nobody, so that the handler's own failure may be its fault.
            if on_record:
                self._cut_short.add(delivery.event_id)
            raise
        logger.warning(
            "%s failed on %s, attempt %d", self._name, delivery.event_id, failure.attempts, exc_info=error
        )
        self._put_back.pop(delivery.event_id, None)
        if failure.attempts >= self._policy.attempts:
            return await self._bury(delivery, failure.attempts, text)
        return await self._later(delivery, failure.seconds, "failed")

    async def _interrupted(self, delivery: Delivery, error: Exception) -> str:
        """Puts a delivery back. An outage does not count as an attempt, however long it lasts."""
        cause = error.__cause__ or error
        logger.warning("%s: %s will be retried: %s", self._name, delivery.event_id, type(cause).__name__)
        self._remember(delivery)
        pause = min(_FIRST_OUTAGE_SECONDS * 2 ** (delivery.deliveries - 1), _LONGEST_OUTAGE_SECONDS)
        with contextlib.suppress(nats.errors.Error):
            await delivery.later(pause)
        return "interrupted"

    def _remember(self, delivery: Delivery) -> None:
        if delivery.deliveries == 1 or delivery.event_id in self._put_back:
            self._put_back[delivery.event_id] = None
            if len(self._put_back) > _REMEMBERED:
                del self._put_back[next(iter(self._put_back))]

    async def _bury(self, delivery: Delivery, attempts: int, error: str) -> str:
        """Gives an event up, once its dead letter is on disk: a crash in between makes a second letter."""
        await dead_letters.bury(self._broker, delivery, self._name, attempts, error)
        await self._inbox.bury(delivery.event_id)
        await delivery.give_up()
        logger.error("%s gave up %s after %d attempts: %s", self._name, delivery.event_id, attempts, error)
        return "dead"

    async def _wait_for_turn(self, delivery: Delivery) -> str:
        """Puts back a delivery whose predecessor fails, is in another process, or will never come."""
        seconds = await self._inbox.held_up(delivery.aggregate_id)
        if seconds is None:
            if delivery.deliveries >= _WAITS_BEFORE_LOOKING:
                missing = await self._inbox.missing(self._transactions.predecessors(delivery))
                if not await self._is_coming(delivery, missing):
                    return await self._attempt(delivery, in_turn=True)
            seconds = min(_FIRST_WAIT_SECONDS * 2**delivery.deliveries, _LONGEST_WAIT_SECONDS)
        self._remember(delivery)
        return await self._later(delivery, max(seconds, _FIRST_WAIT_SECONDS), "waiting")


def _is_readable(delivery: Delivery) -> bool:
    """Whether the payload is a message of its type: only that makes it poison, and not an error of the handler."""
    try:
        delivery.type.message_class.FromString(delivery.data)
    except DecodeError:
        return False
    return True
