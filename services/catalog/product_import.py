"""Imports many products at once, by SKU, in as few statements as their size allows."""

import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

import protovalidate
from protomesh.catalog.v1.catalog_events_pb2 import ProductCreated, ProductUpdated
from protomesh.catalog.v1.product_service_pb2 import ProductRow, ProductRowResult
from sqlalchemy import text

from chassis.core import Aborted, uuid7
from chassis.data import Prepared, Row, UnitOfWork
from services.catalog import convert, repository
from services.catalog.model import Product, normal_name, normal_sku

# The rows as a table; a field that the import did not send is NULL.
_ROWS = """
    json_to_recordset(CAST(:rows AS json)) AS row (id uuid, sku text, name text, description text, category_id uuid,
        recategorized boolean, currency_code text, price_minor bigint, status text, units bigint)
"""
_COLUMNS = ", ".join(f"products.{column.name}" for column in Product.__table__.columns)

# Locked in one order, so that two imports of the same rows do not deadlock.
_HOLD = Prepared(text("SELECT id, sku FROM products WHERE sku = ANY(:skus) ORDER BY sku FOR NO KEY UPDATE"))

_UPDATE = Prepared(
    text(f"""
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
    RETURNING {_COLUMNS}
    """)  # noqa: S608 (all parts are ours)
)

# With their stock, which may be 0, and its first entry in the ledger.
_INSERT = Prepared(
    text(f"""
    WITH row AS MATERIALIZED (SELECT * FROM {_ROWS}), created AS (
        INSERT INTO products (id, sku, name, description, category_id, currency_code, price_minor, status, image_urls,
                              version, created_at, updated_at)
        SELECT id, sku, name, coalesce(description, ''), category_id, currency_code, price_minor,
               coalesce(status, 'active'), '{{}}', 1, now(), now()
        FROM row ORDER BY sku
        ON CONFLICT (sku) DO NOTHING RETURNING {_COLUMNS}
    ), stocked AS (
        INSERT INTO stock (product_id, available, reserved, sold, received)
        SELECT row.id, row.units, 0, 0, row.units FROM created JOIN row USING (id)
    ), moved AS (
        INSERT INTO stock_movements (product_id, kind, quantity, reason, actor_id)
        SELECT row.id, 'received', row.units, 'initial stock', :actor_id FROM created JOIN row USING (id)
        WHERE row.units > 0
    )
    SELECT * FROM created
    """)  # noqa: S608 (all parts are ours)
)


# The largest rows that the contract allows are 20 MB, which is too much for one statement and its time limit.
_STATEMENT_CHARACTERS = 1_000_000


class Batch:
    """The rows of one call, and the result of each."""

    def __init__(self, rows: Sequence[ProductRow]) -> None:
        self.results = [ProductRowResult() for _ in rows]
        self._rows: dict[str, tuple[ProductRow, ProductRowResult]] = {}
        for row, result in zip(rows, self.results, strict=True):
            self._check(row, result)

    async def write(self, work: UnitOfWork, actor_id: str) -> None:
        """Creates and updates what differs, and publishes it. Raises Aborted CONFLICT if another import interferes."""
        categories = await self._categories(work)
        held = {row.sku: row.id for row in await work.all(_HOLD, skus=list(self._rows))}
        known: list[dict[str, Any]] = []
        new: list[dict[str, Any]] = []
        for sku, (row, _) in self._rows.items():
            (known if sku in held else new).append(_columns(sku, row, categories))
        updated = [row for part in _parts(known) for row in await work.all(_UPDATE, rows=part)]
        created = await self._create(work, new, actor_id)
        self._report(held, created, updated)
        for product in created:
            message = convert.product_message(product, available=0)
            work.publish(ProductCreated(product_id=message.id, product=message), version=product.version)
        for product in updated:
            message = convert.product_message(product, available=0)
            work.publish(ProductUpdated(product_id=message.id, product=message), version=product.version)

    def _check(self, row: ProductRow, result: ProductRowResult) -> None:
        """Accepts a row, or rejects it."""
        sku = normal_sku(row.sku)
        if violations := protovalidate.collect_violations(row):
            _reject(result, "ROW_INVALID", "; ".join(map(_sentence, violations)))
        elif sku in self._rows:
            _reject(result, "ROW_SKU_REPEATED", f"An earlier row already has the SKU {sku}.")
        else:
            self._rows[sku] = (row, result)

    async def _categories(self, work: UnitOfWork) -> dict[str, UUID]:
        """Returns the categories that rows name, by path; rejects rows that name a category that does not exist."""
        paths = {row.category_path for row, _ in self._rows.values() if row.category_path}
        found = await repository.category_ids(work, sorted(paths)) if paths else {}
        for sku, (row, result) in list(self._rows.items()):
            if row.category_path and row.category_path not in found:
                _reject(
                    result,
                    "CATEGORY_NOT_FOUND",
                    f"The category {row.category_path} does not exist; create it first.",
                )
                del self._rows[sku]
        return found

    async def _create(self, work: UnitOfWork, rows: list[dict[str, Any]], actor_id: str) -> list[Row]:
        for row in rows:
            row |= {"id": str(uuid7()), "units": self._rows[row["sku"]][0].initial_stock}
        parts = _parts(sorted(rows, key=itemgetter("sku")))
        created = [row for part in parts for row in await work.all(_INSERT, rows=part, actor_id=actor_id)]
        if len(created) < len(rows):
            raise Aborted(
                "CONFLICT", "Another import is changing the same products; try again.", retry_after=0.1
            )
        return created

    def _report(self, held: dict[str, UUID], created: list[Row], updated: list[Row]) -> None:
        outcomes = {row.sku: (ProductRowResult.created, row.id) for row in created}
        outcomes |= {row.sku: (ProductRowResult.updated, row.id) for row in updated}
        for sku, (_, result) in self._rows.items():
            outcome, product_id = outcomes.get(sku) or (ProductRowResult.unchanged, held[sku])
            result.outcome, result.product_id = outcome, str(product_id)


def _parts(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields the rows as JSON arrays, each of a size that a statement has time for."""
    part: list[str] = []
    size = 0
    for row in rows:
        # An escaped character may take up three times its size in UTF-8, and PostgreSQL must parse all of it.
        text = json.dumps(row, ensure_ascii=False)
        if part and size + len(text) > _STATEMENT_CHARACTERS:
            yield f"[{','.join(part)}]"
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield f"[{','.join(part)}]"


def _reject(result: ProductRowResult, reason: str, message: str) -> None:
    result.outcome, result.reason, result.message = ProductRowResult.rejected, reason, message


def _sentence(violation: Any) -> str:
    field = ".".join(element.field_name for element in violation.proto.field.elements)
    return f"{field}: {violation.proto.message}"


def _columns(sku: str, row: ProductRow, categories: dict[str, UUID]) -> dict[str, Any]:
    category_id = categories.get(row.category_path)
    return {
        "sku": sku,
        "name": normal_name(row.name),
        "description": row.description if row.HasField("description") else None,
        "category_id": str(category_id) if category_id else None,
        "recategorized": row.HasField("category_path"),
        "currency_code": row.price.currency_code,
        "price_minor": row.price.amount_minor,
        "status": convert.product_status(row.status) if row.HasField("status") else None,
    }
