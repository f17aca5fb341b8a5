"""The rate in rows per second of an import through the edge, and a search that matches a sixth of all products."""

import asyncio
import itertools
import json
import time
from typing import Any

import psycopg

from bench.goals import IMPORT, SEARCH
from bench.http_load import load, request_bytes
from bench.mesh import BenchMesh
from bench.report import Figure, Report
from meshctl.core.polling import until

PRODUCTS = 200_000
# As `meshctl import` sends them.
ROWS_PER_BATCH = 200
BATCHES_IN_FLIGHT = 4
# The search covers what was imported by then.
IMPORT_SECONDS = 60.0
SEARCHES = 30
ANALYZE_SECONDS = 60.0
# What is not in the statistics is less than the share at which PostgreSQL counts again.
_ANALYZED = """
    SELECT n_mod_since_analyze < 0.05 * n_live_tup FROM pg_stat_user_tables WHERE relname = 'products'
    """
_MATERIALS = ("oak", "walnut", "steel", "linen", "marble", "copper")
_KINDS = ("chair", "table", "lamp", "shelf", "bowl")


async def measure(mesh: BenchMesh, report: Report) -> None:
    """Imports, then searches."""
    headers = {"authorization": f"Bearer {mesh.admin_token}"}
    starts = itertools.count(0, ROWS_PER_BATCH)

    def batch() -> bytes:
        first = next(starts)
        body = json.dumps({"rows": [_row(first + number) for number in range(ROWS_PER_BATCH)]}).encode()
        return request_bytes("POST", f"{mesh.edge_url}/v1/products:batchImport", headers=headers, body=body)

    began = time.process_time()
    imported = await load(
        mesh.edge_url,
        batch,
        connections=BATCHES_IN_FLIGHT,
        seconds=IMPORT_SECONDS,
        limit=PRODUCTS // ROWS_PER_BATCH,
    )
    rows = len(imported.latencies) * ROWS_PER_BATCH
    note = f"{rows:,} rows; {time.process_time() - began:.0f} s of the load's own CPU"
    report.add(Figure(IMPORT, rows / imported.seconds, "rows/s", errors=imported.errors, note=note))

    await _analyzed(mesh)
    search = request_bytes("GET", f"{mesh.edge_url}/v1/products?search=walnut&limit=20")
    found = await load(mesh.edge_url, lambda: search, connections=1, seconds=30.0, limit=SEARCHES)
    report.add(
        Figure(
            SEARCH,
            found.requests_per_second,
            p50_ms=found.percentile_ms(50),
            p99_ms=found.percentile_ms(99),
            errors=found.errors,
            note=f"{rows // len(_MATERIALS):,} of {rows:,} match",
        )
    )


async def _analyzed(mesh: BenchMesh) -> None:
    """Waits until PostgreSQL has counted what was imported: a search is planned by those statistics."""
    url = mesh.wiring["database_urls"]["catalog"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def are_fresh() -> bool:
            row = await (await connection.execute(_ANALYZED)).fetchone()
            return bool(row and row[0])

        await asyncio.wait_for(until(are_fresh), ANALYZE_SECONDS)


def _row(number: int) -> dict[str, Any]:
    material, kind = _MATERIALS[number % len(_MATERIALS)], _KINDS[number % len(_KINDS)]
    return {
        "sku": f"IMPORT-{number:06}",
        "name": f"{material.title()} {kind} {number}",
        "description": f"A {kind} of {material}, made by hand, number {number} of its series.",
        "price": {"currency_code": "GBP", "amount_minor": str(500 + number % 5000)},
        "initial_stock": 10,
    }
