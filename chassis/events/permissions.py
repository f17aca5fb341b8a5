"""What the NATS user of a service may do, derived from the contracts: publish its own events, receive those whose
contracts list a subscription of it, and create its own stream.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chassis.contract.event_types import (
    DEAD_LETTERS,
    DEAD_SUBJECT,
    EVERY_SERVICE,
    EventType,
    all_event_types,
)
from chassis.events import wakeup
from chassis.events.broker import inboxes
from chassis.events.subscription import durable_of

_API = "$JS.API"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects of NATS, with its wildcards. `never` are subjects of `publish` that are refused all the same."""

    publish: tuple[str, ...]
    never: tuple[str, ...]
    subscribe: tuple[str, ...]


def of_service(service: str, types: Iterable[EventType] | None = None) -> Permissions:
    """The permissions of a deployable, by the events of the platform."""
    kinds = tuple(types if types is not None else all_event_types().values())
    own = [kind for kind in kinds if kind.stream == service.upper()]
    durable = {(name, kind.stream) for kind in kinds for name in kind.subscribers if _is_of(service, name)}
    ephemeral = [kind for kind in kinds if EVERY_SERVICE in kind.subscribers]
    received = [
        *own,
        *ephemeral,
        *(kind for kind in kinds if any(_is_of(service, n) for n in kind.subscribers)),
    ]
    publish = {kind.filter for kind in own} | {wakeup.subject(service)}
    for stream in {kind.stream for kind in own}:
        publish |= {f"{_API}.STREAM.INFO.{stream}", f"{_API}.STREAM.CREATE.{stream}"}
    for name, stream in durable:
        publish |= set(_of_durable(name, stream))
    for kind in ephemeral:
        publish |= set(_of_ephemeral(kind))
    return Permissions(
        publish=tuple(sorted(publish)),
        never=tuple(sorted(set(_of_others(kinds, ephemeral)))),
        subscribe=tuple(
            sorted({kind.filter for kind in received} | {wakeup.subject(service), inboxes(service)})
        ),
    )


def _is_of(service: str, subscription: str) -> bool:
    return subscription.startswith(f"{service}.")


def _of_durable(name: str, stream: str) -> Iterator[str]:
    """What a subscription asks of the stream of others, and of the dead letters."""
    durable = durable_of(name)
    yield f"{_API}.STREAM.INFO.{stream}"
    yield f"{_API}.STREAM.MSG.GET.{stream}"
    yield f"{_API}.CONSUMER.DURABLE.CREATE.{stream}.{durable}"
    yield f"{_API}.CONSUMER.INFO.{stream}.{durable}"
    yield f"{_API}.CONSUMER.MSG.NEXT.{stream}.{durable}"
    yield f"$JS.ACK.{stream}.{durable}.>"
    yield f"{_API}.STREAM.INFO.{DEAD_LETTERS}"
    yield f"{_API}.STREAM.CREATE.{DEAD_LETTERS}"
    yield f"{DEAD_SUBJECT}.{name}"


def _of_ephemeral(kind: EventType) -> Iterator[str]:
    """What a process asks of a stream to receive every event of a type; the name of its consumer is random."""
    yield f"{_API}.CONSUMER.CREATE.{kind.stream}.*.{kind.subject}.>"
    yield f"{_API}.CONSUMER.INFO.{kind.stream}.*"


def _of_others(kinds: Iterable[EventType], ephemeral: Iterable[EventType]) -> Iterator[str]:
    """The durable consumers whose name the wildcard for ephemeral ones would cover."""
    open_to_all = {kind.stream for kind in ephemeral}
    for kind in kinds:
        if kind.stream in open_to_all:
            for name in kind.subscribers - {EVERY_SERVICE}:
                yield f"{_API}.CONSUMER.CREATE.{kind.stream}.{durable_of(name)}.>"
