"""A model for tests of the chassis's data side, and the events about it."""

import datetime as dt
import pathlib
import uuid
from typing import Any

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from chassis.core import uuid7
from chassis.data import Model, database

MIGRATIONS = pathlib.Path(__file__).parent / "migrations"


class Thing(Model):
    __tablename__ = "things"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str | None]
    rank: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=text("clock_timestamp()"))
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy's own form)


def happened(order_id: str | None = None, reason: str = "") -> OrderCancelled:
    """An event about an aggregate: a new one when none is named."""
    return OrderCancelled(order_id=order_id or str(uuid.uuid4()), reason=reason)


async def scalar(source: database.Database, statement: str, *values: Any) -> Any:
    """The first column of the first row."""
    async with source.connection() as connection:
        row = await (await connection.execute(statement, values)).fetchone()
    return row[0] if row else None
