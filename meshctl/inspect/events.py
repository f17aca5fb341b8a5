"""`meshctl events`: handles dead letters, and refills streams from the outbox."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from rich.table import Table

from chassis.contract import all_event_types
from chassis.data import Database
from chassis.events import Broker, dead_letters, maintenance, streams
from meshctl.core.arguments import AsJson, Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.terminal import console, print_json
from meshctl.mesh import control
from meshctl.mesh.session import CALL_SECONDS

commands = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Handle dead letters, and refill streams."
)

Numbers = Annotated[list[int] | None, typer.Argument(help="Numbers from `list`.")]
Consumer = Annotated[str, typer.Option(help="Only letters of this consumer, such as catalog.release_stock.")]
All = Annotated[bool, typer.Option("--all", help="All letters, or all of the consumer.")]


@commands.command("list")
def list_(
    consumer: Consumer = "",
    limit: Annotated[int, typer.Option(min=1, help="Letters at the most.")] = 100,
    as_json: AsJson = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """List the dead letters, the oldest first."""
    letters = asyncio.run(_listed(data, consumer, limit))
    if as_json:
        print_json([_fields(letter) for letter in letters])
        return
    table = Table("number", "died at", "consumer", "event", "aggregate", "attempts", "error", box=None)
    for letter in letters:
        row = (letter.died_at[:19], letter.consumer, letter.event_type, letter.aggregate_id)
        table.add_row(str(letter.sequence), *row, str(letter.attempts), letter.error)
    console().print(table if letters else "There are no dead letters.")


async def _listed(data: Path, consumer: str, limit: int) -> list[dead_letters.DeadLetter]:
    async with _broker(data) as broker:
        return [letter async for letter in dead_letters.listed(broker, consumer, limit)]


def _fields(letter: dead_letters.DeadLetter) -> dict[str, object]:
    return {
        "number": letter.sequence,
        "died_at": letter.died_at,
        "consumer": letter.consumer,
        "event": letter.event_type,
        "aggregate": letter.aggregate_id,
        "attempts": letter.attempts,
        "error": letter.error,
    }


@commands.command()
def show(
    number: Annotated[int, typer.Argument(help="A number from `list`.")], data: Data = DEFAULT_FOLDER
) -> None:
    """Show a dead letter: its headers, and the event as JSON."""

    async def read() -> dead_letters.DeadLetter:
        async with _broker(data) as broker:
            return await dead_letters.show(broker, number)

    letter = asyncio.run(read())
    for name, value in letter.headers.items():
        print(f"{name}: {value}")
    print(_readable(letter))


def _readable(letter: dead_letters.DeadLetter) -> str:
    """Returns the event as JSON, or its bytes when no contract can read them, which may be why it died."""
    kind = all_event_types().get(letter.event_type)
    if kind is None:
        return f"No contract has {letter.event_type or 'an event without a type'}: {letter.payload.hex()}"
    try:
        event = kind.message_class.FromString(letter.payload)
    except DecodeError:
        return f"The payload is not a valid {letter.event_type}: {letter.payload.hex()}"
    return json_format.MessageToJson(event, preserving_proto_field_name=True, ensure_ascii=False)


@commands.command()
def replay(
    numbers: Numbers = None, everything: All = False, consumer: Consumer = "", data: Data = DEFAULT_FOLDER
) -> None:
    """Send events to the consumers that gave them up, and remove their letters."""
    asyncio.run(_each("replayed", dead_letters.replay, numbers, consumer, data, everything=everything))


@commands.command()
def drop(
    numbers: Numbers = None, everything: All = False, consumer: Consumer = "", data: Data = DEFAULT_FOLDER
) -> None:
    """Remove dead letters permanently: their events will not be handled."""
    asyncio.run(_each("dropped", dead_letters.drop, numbers, consumer, data, everything=everything))


@commands.command()
def rebuild(
    stream: Annotated[
        str, typer.Argument(help="The stream, such as ORDERING; it belongs to the service of that name.")
    ],
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Send a stream's events of the last 7 days again, from its owner's outbox.

    Consumers skip the events that they have handled. A stream that is gone needs no command: its owner creates it and
    sends all events again. This command is for a stream that lost some of them, by a purge or an old backup.
    """
    owner = stream.lower()
    urls = control.ask(MeshFolder(data.resolve()).control, {"command": "wiring"})["database_urls"]
    if streams.owned_by(owner) is None or owner not in urls:
        known = ", ".join(sorted(filter(None, map(streams.owned_by, urls))))
        raise OperatorError(f"There is no stream {stream!r}: the streams are {known}.")

    async def send() -> int:
        async with Database(urls[owner], name="meshctl", pool_size=1) as database:
            return await maintenance.republish(database, stream.upper())

    print(f"{asyncio.run(send())} events of {stream.upper()} were sent again.")


async def _each(
    done: str,
    act: Callable[[Broker, int], Awaitable[object]],
    numbers: list[int] | None,
    consumer: str,
    data: Path,
    *,
    everything: bool,
) -> None:
    if not numbers and not everything:
        raise OperatorError("Give the numbers of the letters, or --all.")
    async with _broker(data) as broker:
        for number in numbers or await _all(broker, consumer):
            await act(broker, number)
            print(f"{number}: {done}")


async def _all(broker: Broker, consumer: str) -> list[int]:
    """Returns the numbers as they are now, so that a letter that comes back is not taken again."""
    return [letter.sequence async for letter in dead_letters.listed(broker, consumer, sys.maxsize)]


@asynccontextmanager
async def _broker(data: Path) -> AsyncIterator[Broker]:
    url = control.ask(MeshFolder(data.resolve()).control, {"command": "wiring"})["nats_url"]
    try:
        async with asyncio.timeout(CALL_SECONDS), Broker(url, name="meshctl") as broker:
            yield broker
    except LookupError as missing:
        raise OperatorError(str(missing)) from None
    except TimeoutError:
        raise OperatorError("NATS does not answer: see `meshctl status`.") from None
