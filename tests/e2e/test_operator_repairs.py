"""What an operator repairs: dead letters, lost streams, ledgers that disagree."""

import json
import uuid
from collections.abc import AsyncIterator

import nats
import psycopg
import pytest

from tests.e2e.terminal import meshctl
from tests.mesh import GENEROUS, Mesh, running_mesh
from tests.patience import eventually
from tests.shop import Shop


@pytest.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh that gives events up after two attempts."""
    hasty = {"PROTOMESH_EVENT_ATTEMPTS": "2", "PROTOMESH_EVENT_BACKOFF_SECONDS": "[0.1]"}
    folder = tmp_path_factory.mktemp("fragile")
    async with running_mesh(folder, environment={**GENEROUS, **hasty}) as mesh:
        yield mesh


async def dead_letter(mesh: Mesh, aggregate_id: str) -> int:
    """The number of the dead letter about this aggregate, once there is one."""
    found: list[str] = []

    async def buried() -> bool:
        rows = (await meshctl(mesh, "events", "list")).out.splitlines()
        found[:] = [row for row in rows if aggregate_id in row]
        return bool(found)

    await eventually(buried, within=30)
    assert "catalog.release_stock" in found[0]
    return int("".join(char if char.isdigit() else " " for char in found[0]).split()[0])


async def publish_nonsense(mesh: Mesh) -> str:
    """Puts what no consumer can read straight into a stream; the id of what it is about."""
    order_id = str(uuid.uuid4())
    headers = {
        "ce-id": str(uuid.uuid4()),
        "ce-type": "protomesh.ordering.v1.OrderCancelled",
        "ce-subject": order_id,
    }
    client = await nats.connect(mesh.nats_url)
    try:
        subject = f"ordering.order.cancelled.v1.{order_id}"
        await client.jetstream().publish(subject, b"\xff\xff", headers=headers)
    finally:
        await client.close()
    return order_id


async def test_an_event_that_nobody_can_read_is_listed_shown_replayed_and_dropped(mesh: Mesh) -> None:
    order_id = await publish_nonsense(mesh)
    number = await dead_letter(mesh, order_id)
    shown = await meshctl(mesh, "events", "show", str(number))
    assert shown.code == 0, shown
    assert f"ce-subject: {order_id}" in shown.out
    assert "mesh-error: The payload is not a protomesh.ordering.v1.OrderCancelled." in shown.out
    assert (
        shown.out.splitlines()[-1] == "The payload is not a valid protomesh.ordering.v1.OrderCancelled: ffff"
    )

    replayed = await meshctl(mesh, "events", "replay", str(number))
    assert replayed.out == f"{number}: replayed\n"
    again = await dead_letter(mesh, order_id)
    assert again > number
    assert (await meshctl(mesh, "events", "drop", str(again))).out == f"{again}: dropped\n"
    assert order_id not in (await meshctl(mesh, "events", "list")).out


async def test_a_stream_that_lost_what_it_had_is_filled_again(mesh: Mesh) -> None:
    client = await nats.connect(mesh.nats_url)
    try:
        jetstream = client.jetstream()
        before = (await jetstream.stream_info("IDENTITY")).state.messages
        await jetstream.purge_stream("IDENTITY")
        done = await meshctl(mesh, "events", "rebuild", "IDENTITY")
        assert done.out == f"{before} events of IDENTITY were sent again.\n"

        async def filled() -> bool:
            return (await jetstream.stream_info("IDENTITY")).state.messages >= before

        await eventually(filled, within=30)
    finally:
        await client.close()


async def test_a_stream_that_no_service_owns_is_a_sentence(mesh: Mesh) -> None:
    refusal = (await meshctl(mesh, "events", "rebuild", "NOBODYS")).refusal
    assert refusal == "There is no stream 'NOBODYS': the streams are CATALOG, IDENTITY, ORDERING, PROJECTS."


async def test_a_letter_that_is_not_there_is_a_sentence(mesh: Mesh) -> None:
    for command in ("show", "replay", "drop"):
        refusal = (await meshctl(mesh, "events", command, "999999")).refusal
        assert refusal == "There is no dead letter 999999."


@pytest.mark.parametrize("command", ["replay", "drop"])
async def test_letters_must_be_named(mesh: Mesh, command: str) -> None:
    refusal = (await meshctl(mesh, "events", command)).refusal
    assert refusal == "Give the numbers of the letters, or --all."


async def test_an_event_whose_handler_failed_takes_effect_when_it_is_replayed(fragile: Mesh) -> None:
    shop, buyer = Shop(fragile), await fragile.sign_up()
    product = await shop.new_product(units=5)
    order = await shop.ordered(buyer, {product: 2})
    url = fragile.database_url("catalog")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        # A migration gone wrong; the operator mends it, and replays.
        await connection.execute("ALTER TABLE reservation_lines RENAME TO lost")
        assert (await shop.cancel(buyer, order["id"])).status_code == 200
        number = await dead_letter(fragile, order["id"])
        await connection.execute("ALTER TABLE lost RENAME TO reservation_lines")
    shown = (await meshctl(fragile, "events", "show", str(number))).out
    assert "mesh-attempts: 2" in shown
    assert json.loads(shown[shown.index("\n{\n") :])["order_id"] == order["id"]
    assert await shop.stock(product) == (3, 2)

    everything = await meshctl(fragile, "events", "replay", "--all", "--consumer", "catalog.release_stock")
    assert everything.out == f"{number}: replayed\n"

    async def given_back() -> bool:
        return await shop.stock(product) == (5, 0)

    await eventually(given_back)
    assert (await meshctl(fragile, "events", "list")).out == "There are no dead letters.\n"


async def test_reconciliation_says_whether_the_ledgers_agree(fragile: Mesh) -> None:
    shop, buyer = Shop(fragile), await fragile.sign_up()
    product = await shop.new_product(units=5)
    await shop.ordered(buyer, {product: 2})
    agreed = await meshctl(fragile, "reconcile")
    assert (agreed.code, agreed.out) == (0, "ordering and catalog agree\n")
    url = fragile.database_url("catalog")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "UPDATE stock SET available = 4, reserved = 1 WHERE product_id = %s", (product,)
        )
        found = await meshctl(fragile, "reconcile")
        await connection.execute(
            "UPDATE stock SET available = 3, reserved = 2 WHERE product_id = %s", (product,)
        )
    assert found.code == 1
    assert found.out.startswith(f"{product}: stock says 4 available + 1 reserved + 0 sold of 5 received")
    assert found.out.endswith("1 findings\n")
