"""What the snippets of the documentation have at hand, as a handler has it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import sqlalchemy
from protomesh.catalog.v1.catalog_events_pb2 import ProductArchived
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from protomesh.projects.v1 import project_pb2
from protomesh.projects.v1.projects_events_pb2 import ProjectUpdated
from sqlalchemy.orm import Mapped

from chassis import core, data, events, rpc
from chassis.contract.mapping import Mapper
from chassis.core import Settings, uuid7
from chassis.data import Database
from chassis.service import Service
from services.catalog import stock_repository
from services.catalog.model import Product, Stock
from services.projects.model import Project, ProjectMember, Role
from services.projects.repository import PROJECTS

_NOTES = """
    CREATE TABLE notes (id uuid PRIMARY KEY, owner_id uuid, title text, version bigint, created_at timestamptz,
                        updated_at timestamptz)
    """
_CALLER = uuid7()


@asynccontextmanager
async def names(urls: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    """Names by page, and those that all pages use; `urls` are those of the databases of catalog and projects."""
    rooms = (core, data, events, rpc)
    everywhere = {name: getattr(room, name) for room in rooms for name in room.__all__}
    everywhere |= {
        name: getattr(sqlalchemy, name) for name in ("bindparam", "select", "update", "Uuid", "ARRAY")
    }
    everywhere |= {"UUID": type(_CALLER), "Mapped": Mapped, "Mapper": Mapper}
    call = SimpleNamespace(caller=rpc.Caller(user_id=str(_CALLER)))
    async with (
        Database(urls["catalog"], cursor_secret="secret") as catalog,
        Database(urls["projects"], cursor_secret="secret") as projects,
    ):
        product, project = await _product(catalog), await _project(projects)
        note_id = await _note(catalog)
        async with catalog.unit_of_work() as work:
            # The pages take their time.
            await work.execute(sqlalchemy.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield {
                "everywhere": everywhere | {"call": call},
                "docs/data.md": {
                    "self": SimpleNamespace(_database=catalog),
                    "request": SimpleNamespace(id=str(note_id), page=0, limit=0, cursor="", status=""),
                    "work": work,
                    "product": product,
                    "product_id": product.id,
                    "Product": Product,
                    "Stock": Stock,
                    "ProductArchived": ProductArchived,
                },
                "docs/events.md": {
                    "self": SimpleNamespace(_database=projects),
                    "request": SimpleNamespace(id=str(project.id)),
                    "PROJECTS": PROJECTS,
                    "ProjectUpdated": ProjectUpdated,
                    "OrderCancelled": OrderCancelled,
                    "stock_repository": stock_repository,
                    "service": Service(Settings(service="catalog")),
                    "_project": Mapper(project_pb2.Project, Project),
                },
            }


async def _product(database: Database) -> Product:
    now = datetime.now(UTC)
    product = Product(
        id=uuid7(), sku="A1", name="Heart", description="", currency_code="GBP", price_minor=5, status="active",
        image_urls=[], created_at=now, updated_at=now,
    )  # fmt: skip
    async with database.unit_of_work() as work:
        await work.save(product)
        await work.save(Stock(product_id=product.id, available=9, reserved=0, sold=0, received=9))
    return product


async def _project(database: Database) -> Project:
    project = Project.new(uuid7(), name="Apollo", description="", status="active", owner_id=_CALLER)
    async with database.unit_of_work() as work:
        await work.save(project)
        await work.save(ProjectMember.new(project.id, _CALLER, Role.OWNER))
    return project


async def _note(database: Database) -> Any:
    note_id = uuid7()
    async with database.connection() as connection:
        await connection.execute(_NOTES)
        await connection.execute(
            "INSERT INTO notes VALUES (%s, %s, 'First', 1, now(), now())", (note_id, _CALLER)
        )
    return note_id
