"""Statements of the chassis in a session's transaction, on psycopg's prepared path."""

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncConnection, AsyncCursor
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.data import sql_spans


async def execute(session: AsyncSession, statement: str, values: Mapping[str, Any]) -> AsyncCursor[Any]:
    """Runs a statement with psycopg's `%(name)s` parameters; the session's own path costs three times as much."""
    raw = await (await session.connection()).get_raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, AsyncConnection)
    with sql_spans.span(statement) as span:
        cursor = await connection.execute(statement, values, prepare=True)
        span.set_rows(max(cursor.rowcount, 0))
    return cursor
