"""A run of an import: records in batches, a few in flight, reported in the order of the file."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from protomesh.catalog.v1.product_service_pb2 import ProductRow, ProductRowResult

from services.catalog.importing.checkpoint import Checkpoint, ImportProgress
from services.catalog.importing.client import CatalogClient
from services.catalog.importing.columns import ColumnMap, RowError, category_levels
from services.catalog.importing.rejects import RejectFile
from services.catalog.importing.source import Record, Source
from services.catalog.model import normal_sku

ROWS_PER_BATCH = 200
# Under the request limit of 1 MiB, however long the descriptions are.
BYTES_PER_BATCH = 512 * 1024
BATCHES_IN_FLIGHT = 4


Watch = Callable[[ImportProgress], None]


async def import_products(
    source: Source,
    columns: ColumnMap,
    client: CatalogClient,
    *,
    create_categories: bool = False,
    restart: bool = False,
    watch: Watch = lambda _: None,
) -> ImportProgress:
    """Imports a file of products through the edge; continues an interrupted run unless `restart` is set.

    Calls `watch` with the progress after each batch. Raises ImportFailed when the mesh refuses a call.
    """
    products = ProductImport(source, columns, client, create_categories=create_categories)
    with products.checkpoint(client.edge_url, restart=restart) as checkpoint:
        return await products.run(checkpoint, watch)


@dataclass
class _Entry:
    """A record on its way: as a row, or with the reason why it cannot be one."""

    record: Record
    row: ProductRow | None = None
    reason: str = ""
    message: str = ""


@dataclass
class _Batch:
    entries: list[_Entry] = field(default_factory=list)
    bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.entries) >= ROWS_PER_BATCH or self.bytes >= BYTES_PER_BATCH

    def add(self, entry: _Entry) -> None:
        self.entries.append(entry)
        self.bytes += entry.row.ByteSize() if entry.row else 0

    def rows(self) -> list[ProductRow]:
        return [entry.row for entry in self.entries if entry.row]


class ProductImport:
    """The import of one file of products."""

    def __init__(
        self, source: Source, columns: ColumnMap, client: CatalogClient, *, create_categories: bool
    ) -> None:
        self._source = source
        self._columns = columns
        self._client = client
        self._create_categories = create_categories

    def checkpoint(self, target: str, *, restart: bool = False) -> Checkpoint:
        """Returns the checkpoint of an interrupted import of the same file, with the same options, to the same mesh."""
        path = self._source.path.with_name(f"{self._source.path.name}.import")
        if restart:
            path.unlink(missing_ok=True)
        how = f"{self._source.digest()} {sorted(self._columns.columns.items())} {self._columns.currency} {target}"
        return Checkpoint(path, how)

    async def run(self, checkpoint: Checkpoint, watch: Watch) -> ImportProgress:
        """Imports the rest of the file; calls `watch` with the progress after each batch."""
        progress = checkpoint.progress
        with RejectFile(self._source, progress.reject_bytes) as rejects:
            async for batch, results in self._sent(self._batches(checkpoint)):
                progress = _advance(progress, batch, results, rejects)
                checkpoint.save(progress)
                watch(progress)
        checkpoint.finish()
        if not progress.rejected:
            self._source.rejects.unlink(missing_ok=True)
        return progress

    async def _sent(
        self, batches: Iterator[_Batch]
    ) -> AsyncIterator[tuple[_Batch, Sequence[ProductRowResult]]]:
        """Keeps a few batches in flight, and yields them in the order of the file."""
        in_flight: deque[tuple[_Batch, asyncio.Task[Sequence[ProductRowResult]]]] = deque()
        try:
            for batch in batches:
                if self._create_categories:
                    await self._categories(batch)
                in_flight.append((batch, asyncio.create_task(self._send(batch))))
                if len(in_flight) >= BATCHES_IN_FLIGHT:
                    oldest, sending = in_flight.popleft()
                    yield oldest, await sending
            while in_flight:
                oldest, sending = in_flight.popleft()
                yield oldest, await sending
        finally:
            for _, sending in in_flight:
                sending.cancel()

    async def _send(self, batch: _Batch) -> Sequence[ProductRowResult]:
        rows = batch.rows()
        return await self._client.send(rows) if rows else []

    async def _categories(self, batch: _Batch) -> None:
        column = self._columns.columns.get("category", "")
        texts = {
            str(entry.record.values[column])
            for entry in batch.entries
            if entry.row and entry.row.category_path
        }
        for text in sorted(texts):
            await self._client.make_category(category_levels(text))

    def _batches(self, checkpoint: Checkpoint) -> Iterator[_Batch]:
        batch = _Batch()
        for record in self._source.records(checkpoint.progress.offset, checkpoint.progress.line):
            batch.add(self._entry(record, checkpoint))
            if batch.full:
                yield batch
                batch = _Batch()
        if batch.entries:
            yield batch

    def _entry(self, record: Record, checkpoint: Checkpoint) -> _Entry:
        if record.problem:
            return _Entry(record, reason="UNREADABLE", message=record.problem)
        try:
            row = self._columns.row(record.values)
        except RowError as error:
            return _Entry(record, reason="ROW_INVALID", message=str(error))
        first = checkpoint.first_line(normal_sku(row.sku), record.line)
        if row.sku and first != record.line:
            message = f"line {first} already has the SKU {normal_sku(row.sku)}"
            return _Entry(record, reason="ROW_SKU_REPEATED", message=message)
        return _Entry(record, row)


def _advance(
    progress: ImportProgress, batch: _Batch, results: Sequence[ProductRowResult], rejects: RejectFile
) -> ImportProgress:
    """Writes the rejected entries of a batch to the reject file; returns the progress after the batch."""
    counts = {name: getattr(progress, name) for name in ("created", "updated", "unchanged", "rejected")}
    answers = iter(results)
    for entry in batch.entries:
        outcome = ProductRowResult.rejected
        if entry.row:
            result = next(answers)
            outcome, entry.reason, entry.message = result.outcome, result.reason, result.message
        counts[ProductRowResult.Outcome.Name(outcome)] += 1
        if outcome == ProductRowResult.rejected:
            rejects.write(entry.record, entry.reason, entry.message)
    last = batch.entries[-1].record
    return replace(progress, offset=last.end, line=last.last_line, reject_bytes=rejects.flush(), **counts)
