"""`meshctl import`: brings files into the mesh. Streaming, idempotent by key, resumable; a bad row stops nothing."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.import_checkpoint import ImportProgress
from meshctl.import_client import CatalogClient
from meshctl.import_columns import ColumnMap
from meshctl.import_run import ProductImport
from meshctl.import_source import Source
from meshctl.mesh.session import EdgeSession

commands = typer.Typer(no_args_is_help=True, help="Import files into the mesh.")

Watch = Callable[[ImportProgress], None]


async def import_products(
    source: Source,
    columns: ColumnMap,
    session: EdgeSession,
    *,
    create_categories: bool = False,
    restart: bool = False,
    watch: Watch = lambda _: None,
) -> ImportProgress:
    """Imports a file of products through the edge, from where an earlier run of it was left unless `restart`.

    `watch` is told how far it has come after each batch. OperatorError when the mesh refuses.
    """
    products = ProductImport(source, columns, CatalogClient(session), create_categories=create_categories)
    with products.checkpoint(session.edge_url, restart=restart) as checkpoint:
        return await products.run(checkpoint, watch)


@commands.command()
def products(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header, or JSON lines (.jsonl).")],
    map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Which column brings sku, name, description, price, currency, category, status or stock.",
        ),
    ] = None,
    currency: Annotated[str, typer.Option(help="The currency of prices that name none, such as GBP.")] = "",
    stock_column: Annotated[
        str, typer.Option(help="The column with the units that new products start with.")
    ] = "",
    create_categories: Annotated[bool, typer.Option(help="Create categories that do not exist yet.")] = False,
    restart: Annotated[
        bool, typer.Option(help="Begin again, though an earlier run was stopped on the way.")
    ] = False,
    data: Annotated[Path, typer.Option(help="Data folder of the mesh.")] = DEFAULT_FOLDER,
    edge_url: Annotated[str, typer.Option(envvar="EDGE_URL", help="The edge of a mesh elsewhere.")] = "",
    email: Annotated[str, typer.Option(envvar="ADMIN_EMAIL", help="Who imports there.")] = "",
    password: Annotated[str, typer.Option(envvar="ADMIN_PASSWORD", help="Their password.")] = "",
) -> None:
    """Creates and updates products by their SKU. Running it again changes nothing; a stopped run goes on."""
    told = dict(_pair(text) for text in map or []) | ({"stock": stock_column} if stock_column else {})
    source = Source(file)
    columns = ColumnMap.detect(source.columns, told, currency)
    print("Columns: " + ", ".join(f"{field} from {column}" for field, column in columns.columns.items()))

    async def run(watch: Watch) -> ImportProgress:
        async with EdgeSession(edge_url, email, password) if edge_url else EdgeSession.of(data) as session:
            return await import_products(
                source, columns, session, create_categories=create_categories, restart=restart, watch=watch
            )

    with _bar(source) as watch:
        progress = asyncio.run(run(watch))
    print(
        f"{progress.rows} rows: {progress.created} created, {progress.updated} updated, "
        f"{progress.unchanged} unchanged, {progress.rejected} rejected."
    )
    if progress.rejected:
        print(f"What was rejected, and why: {source.rejects}")


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise OperatorError(f"--map {text!r} is not FIELD=COLUMN.")
    return field, column


@contextlib.contextmanager
def _bar(source: Source) -> Iterator[Watch]:
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=source.size)

        def watch(progress: ImportProgress) -> None:
            bar.update(
                task,
                completed=progress.offset,
                description=f"{progress.rows} rows, {progress.rejected} rejected",
            )

        yield watch
