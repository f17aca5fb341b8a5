"""Imports: many products at once, by SKU, in a few statements however many rows there are."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import protovalidate
from protomesh.catalog.v1.catalog_events_pb2 import ProductCreated, ProductUpdated
from protomesh.catalog.v1.product_service_pb2 import ProductRow, ProductRowResult
from sqlalchemy import Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from chassis.core import Aborted, uuid7
from chassis.data import UnitOfWork
from services.catalog import convert, repository, stock_repository
from services.catalog.model import normal_sku

# The rows as a table; a field that the import did not bring is NULL.
_ROWS = """
    jsonb_to_recordset(:rows) AS row (id uuid, sku text, name text, description text, category_id uuid,
        recategorized boolean, currency_code text, price_minor bigint, status text)
"""

# Held in one order, so that two imports of the same rows wait for each other once.
_HOLD = text("SELECT id, sku FROM products WHERE sku = ANY(:skus) ORDER BY sku FOR NO KEY UPDATE")

_UPDATE = text(f"""
    UPDATE products SET (name, description, category_id, currency_code, price_minor, status, version, updated_at) =
        ROW(wanted.name, wanted.description, wanted.category_id, wanted.currency_code, wanted.price_minor,
            wanted.status, products.version + 1, now())
    FROM (
        SELECT held.id, row.name, coalesce(row.description, held.description) AS description,
            CASE WHEN row.recategorized THEN row.category_id ELSE held.category_id END AS category_id,
            row.currency_code, row.price_minor, coalesce(row.status, held.status) AS status
        FROM {_ROWS} JOIN products held USING (sku)
    ) AS wanted
    WHERE products.id = wanted.id
      AND (products.name, products.description, products.category_id, products.currency_code, products.price_minor,
           products.status)
        IS DISTINCT FROM (wanted.name, wanted.description, wanted.category_id, wanted.currency_code,
           wanted.price_minor, wanted.status)
    RETURNING products.id
    """).bindparams(bindparam("rows", type_=JSONB))  # noqa: S608 (both parts are ours)

_INSERT = text(f"""
    INSERT INTO products (id, sku, name, description, category_id, currency_code, price_minor, status, image_urls,
                          version, created_at, updated_at)
    SELECT id, sku, name, coalesce(description, ''), category_id, currency_code, price_minor,
           coalesce(status, 'active'), '{{}}', 1, now(), now()
    FROM {_ROWS} ORDER BY sku
    ON CONFLICT (sku) DO NOTHING RETURNING id
    """).bindparams(bindparam("rows", type_=JSONB))  # noqa: S608 (both parts are ours)


class Batch:
    """Rows of one call, and what becomes of each."""

    def __init__(self, rows: Sequence[ProductRow]) -> None:
        self.results = [ProductRowResult() for _ in rows]
        self._rows: dict[str, tuple[ProductRow, ProductRowResult]] = {}
        for row, result in zip(rows, self.results, strict=True):
            self._check(row, result)

    async def write(self, work: UnitOfWork, actor_id: str) -> None:
        """Creates and updates what differs, and publishes it. Aborted CONFLICT when another import got in the way."""
        categories = await self._categories(work)
        held = await work.execute(_HOLD, {"skus": list(self._rows)})
        ids: dict[str, UUID] = {row.sku: row.id for row in held}
        known = [_columns(sku, row, categories) for sku, (row, _) in self._rows.items() if sku in ids]
        new = [
            _columns(sku, row, categories) | {"id": str(uuid7())}
            for sku, (row, _) in self._rows.items()
            if sku not in ids
        ]
        updated = await _changed(work, _UPDATE, known)
        created = await _changed(work, _INSERT, new)
        if len(created) < len(new):
            raise Aborted("CONFLICT", "Another import brings the same products; try again.", retry_after=0.1)
        ids |= {row["sku"]: UUID(row["id"]) for row in new}
        await stock_repository.receive_first(
            work, {ids[row["sku"]]: self._rows[row["sku"]][0].initial_stock for row in new}, actor_id
        )
        self._report(ids, created, updated)
        await _publish(work, created, updated)

    def _check(self, row: ProductRow, result: ProductRowResult) -> None:
        """Takes a row in, or rejects it."""
        sku = normal_sku(row.sku)
        if violations := protovalidate.collect_violations(row):
            _reject(result, "ROW_INVALID", "; ".join(map(_sentence, violations)))
        elif sku in self._rows:
            _reject(result, "ROW_SKU_REPEATED", f"An earlier row has the SKU {sku} already.")
        else:
            self._rows[sku] = (row, result)

    async def _categories(self, work: UnitOfWork) -> dict[str, UUID]:
        """The categories that rows name, by path; rows that name one that does not exist are rejected."""
        paths = {row.category_path for row, _ in self._rows.values() if row.category_path}
        found = await repository.category_ids(work, sorted(paths)) if paths else {}
        for sku, (row, result) in list(self._rows.items()):
            if row.category_path and row.category_path not in found:
                _reject(result, "CATEGORY_NOT_FOUND", f"There is no category {row.category_path}.")
                del self._rows[sku]
        return found

    def _report(self, ids: dict[str, UUID], created: set[UUID], updated: set[UUID]) -> None:
        for sku, (_, result) in self._rows.items():
            result.product_id = str(ids[sku])
            if ids[sku] in created:
                result.outcome = ProductRowResult.created
            elif ids[sku] in updated:
                result.outcome = ProductRowResult.updated
            else:
                result.outcome = ProductRowResult.unchanged


def _reject(result: ProductRowResult, reason: str, message: str) -> None:
    result.outcome, result.reason, result.message = ProductRowResult.rejected, reason, message


def _sentence(violation: Any) -> str:
    field = ".".join(element.field_name for element in violation.proto.field.elements)
    return f"{field}: {violation.proto.message}"


def _columns(sku: str, row: ProductRow, categories: dict[str, UUID]) -> dict[str, Any]:
    category_id = categories.get(row.category_path)
    return {
        "sku": sku,
        "name": row.name.strip(),
        "description": row.description if row.HasField("description") else None,
        "category_id": str(category_id) if category_id else None,
        "recategorized": row.HasField("category_path"),
        "currency_code": row.price.currency_code,
        "price_minor": row.price.amount_minor,
        "status": convert.product_status(row.status) if row.HasField("status") else None,
    }


async def _changed(work: UnitOfWork, statement: Any, rows: list[dict[str, Any]]) -> set[UUID]:
    if not rows:
        return set()
    return {row.id for row in await work.execute(statement, {"rows": rows})}


async def _publish(work: UnitOfWork, created: Iterable[UUID], updated: set[UUID]) -> None:
    ids = [*created, *updated]
    row: Row[Any]
    for row in await repository.products(work, ids) if ids else ():
        message = convert.product_message(row, row.available)
        kind = ProductUpdated if row.id in updated else ProductCreated
        work.publish(kind(product_id=message.id, product=message), version=row.version)
