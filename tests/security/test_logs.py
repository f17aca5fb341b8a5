"""What nobody should read is in no log and in no span, whatever went wrong meanwhile."""

import datetime
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
import pytest

from chassis.data import audit_records
from tests.mesh import Mesh
from tests.patience import eventually
from tests.shop import Shop, fresh_key
from tests.traces import Traces

BEGINNING = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
SERVICE_LOGS = ("catalog", "identity", "observer", "ordering", "projects", "ratelimit")


def word() -> str:
    """Something that is found nowhere by accident."""
    return f"q{secrets.token_hex(8)}"


class Confidant:
    """A person, and all that was ever confided to the mesh about them."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.email, self.password = f"{word()}@example.com", word()
        self.secrets = [self.email, self.password]
        self.headers: dict[str, str] = {}

    def confide(self, secret: str = "") -> str:
        """A new secret, which no log may ever hold."""
        self.secrets.append(secret or word())
        return self.secrets[-1]

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self._mesh.http.post(path, json=body, headers=self.headers | fresh_key())
        return dict(answer.json())

    async def sign_in(self) -> dict[str, Any]:
        grant = await self.post("/v1/users/login", email=self.email, password=self.password)
        for name in ("access_token", "refresh_token"):
            self.confide(grant[name])
        self.headers = {"authorization": f"Bearer {grant['access_token']}"}
        return grant


@asynccontextmanager
async def refusing(mesh: Mesh, service: str, table: LiteralString) -> AsyncIterator[None]:
    """The service's database as a migration gone wrong would leave it: no new row fits."""
    url = mesh.database_url(service)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT wrong CHECK (id IS NULL) NOT VALID")
        try:
            yield
        finally:
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT wrong")


async def live(mesh: Mesh, anna: Confidant) -> None:
    """All that a person does with personal data, and what can go wrong with it."""
    http = mesh.http
    account = {"username": anna.confide(), "email": anna.email, "password": anna.password}
    user = await anna.post("/v1/users/register", **account)
    await anna.post("/v1/users/register", **account)
    await anna.post("/v1/users/register", **{**account, "email": anna.confide(f"{word()} at example.com")})
    await anna.post("/v1/users/login", email=anna.email, password=anna.confide())
    await anna.post("/v1/users/login", email=anna.confide(f"{word()}@example.com"), password=anna.confide())
    grant = await anna.sign_in()
    names = {"first_name": anna.confide(), "last_name": anna.confide()}
    await http.put(f"/v1/users/{user['id']}", json=names, headers=anna.headers)
    new = await anna.post("/v1/users/refresh", refresh_token=grant["refresh_token"])
    anna.confide(new["access_token"]), anna.confide(new["refresh_token"])
    await anna.post("/v1/users/refresh", refresh_token=grant["refresh_token"])
    await anna.sign_in()
    forged = {"authorization": f"Bearer {anna.confide(anna.headers['authorization'][7:-4] + 'AAAA')}"}
    await http.get("/v1/users/me", headers=forged)
    await http.post("/v1/users/login", content=f'{{"email": "{anna.email}", "password": "{anna.confide()}')
    staff = {"authorization": f"Bearer {anna.confide(await mesh.staff_token())}"}
    await http.get("/v1/users", params={"search": anna.email}, headers=staff)
    await order(mesh, anna)
    await fail(mesh, anna)


async def order(mesh: Mesh, anna: Confidant) -> None:
    """Notes and reasons are in the buyer's own words, and go through outbox and broker."""
    shop = Shop(mesh)
    product = await shop.new_product(units=2)
    lines = [{"product_id": product, "quantity": 1}]
    placed = await anna.post("/v1/orders", lines=lines, shipping_note=anna.confide())
    cancelled = await anna.post(f"/v1/orders/{placed['id']}:cancel", reason=anna.confide())
    assert cancelled["status"] == "cancelled"

    async def given_back() -> bool:
        return await shop.stock(product) == (2, 0)

    await eventually(given_back)


async def fail(mesh: Mesh, anna: Confidant) -> None:
    """Statements that fail with what they were about."""
    async with refusing(mesh, "identity", "users"):
        account = {"username": anna.confide(), "email": f"{anna.confide()}@example.com"}
        failed = await anna.post("/v1/users/register", **account, password=anna.confide())
        assert failed["code"] == 13, failed
    async with refusing(mesh, "projects", "projects"):
        project = {"name": anna.confide(), "description": anna.confide(), "status": "active"}
        failed = await anna.post("/v1/projects", **project)
        assert failed["code"] == 13, failed


@pytest.fixture(scope="module")
async def anna(mesh: Mesh) -> Confidant:
    anna = Confidant(mesh)
    await live(mesh, anna)
    # The last of it has been exported, and logged.
    later = await mesh.http.get("/v1/projects", headers=anna.headers)
    await Traces(mesh).of(later, ("projects", "client", "SQL SELECT"))
    await logged(mesh, later.headers["trace-id"])
    return anna


async def logged(mesh: Mesh, trace_id: str) -> None:
    """Waits until the edge has written its line about a request, which it does every few seconds."""

    async def written() -> bool:
        return trace_id in (mesh.folder.logs / "edge.log").read_text()

    await eventually(written)


def logs(mesh: Mesh) -> list[Path]:
    return sorted(mesh.folder.logs.iterdir())


def lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)


async def test_no_log_holds_what_was_confided(mesh: Mesh, anna: Confidant) -> None:
    assert {path.stem.rpartition("-")[0] for path in logs(mesh)} >= set(SERVICE_LOGS)
    for path in logs(mesh):
        text = path.read_text(errors="replace")
        found = [line for line in text.splitlines() if any(secret in line for secret in anna.secrets)]
        assert found == [], path.name


async def test_no_span_holds_what_was_confided(mesh: Mesh, anna: Confidant) -> None:
    traces = Traces(mesh)
    page = await traces.listed(limit=100)
    assert any(trace["name"] == "POST /v1/users/register" for trace in page["data"])
    for trace in page["data"]:
        text = (await traces.get(f"/v1/observer/traces/{trace['trace_id']}")).text
        assert [secret for secret in anna.secrets if secret in text] == [], trace["name"]


async def test_no_secret_of_the_mesh_is_in_a_log_or_on_a_command_line(mesh: Mesh, anna: Confidant) -> None:
    own = json.loads((mesh.folder.root / "secrets.json").read_text()).values()
    commands = [" ".join(psutil.Process(state["pid"]).cmdline()) for state in mesh.status()]
    for text in (*commands, *(path.read_text(errors="replace") for path in logs(mesh))):
        assert not [secret for secret in own if secret in text]


async def test_a_failure_is_logged_with_its_cause(mesh: Mesh, anna: Confidant) -> None:
    """What is left out is the data, not the reason."""
    causes = (line for line in lines(mesh.folder.logs / "projects-1.log") if "exception" in line)
    (failed,) = [line for line in causes if 'violates check constraint "wrong"' in line["exception"]]
    assert failed["level"] == "error"
    assert failed["message"] == "protomesh.projects.v1.ProjectService.CreateProject failed"
    assert "INSERT INTO projects" in failed["exception"]


async def test_a_log_line_is_json_and_leads_to_its_trace(mesh: Mesh, anna: Confidant) -> None:
    placed = await mesh.http.post("/v1/users/register", json={}, headers=anna.headers)
    assert placed.status_code == 400
    shop = Shop(mesh)
    buyer = await mesh.sign_up()
    order = await shop.place(buyer, {await shop.new_product(units=1): 1})
    for name in SERVICE_LOGS:
        for line in lines(mesh.folder.logs / f"{name}-1.log"):
            assert {"time", "level", "service", "logger", "message"} <= line.keys()
            assert line["service"] == name
    [record] = await audit_records.listed(
        mesh.database_url("ordering"), since=BEGINNING, principal=f"user:{buyer.id}"
    )
    assert (record.trace_id, record.outcome) == (order.headers["trace-id"], "OK")
    await logged(mesh, order.headers["trace-id"])
    assert all(line["service"] == "edge" for line in lines(mesh.folder.logs / "edge.log"))
