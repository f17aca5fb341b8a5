"""`meshctl import`: brings files into the mesh. Streaming, idempotent by key, resumable; a bad row stops nothing."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from meshctl.failure import OperatorError
from meshctl.import_checkpoint import ImportProgress
from meshctl.import_client import CatalogClient
from meshctl.import_columns import ColumnMap
from meshctl.import_run import ProductImport
from meshctl.import_source import Source

commands = typer.Typer(no_args_is_help=True, help="Import files into the mesh.")

Watch = Callable[[ImportProgress], None]


async def import_products(
    path: Path,
    *,
    edge_url: str,
    email: str,
    password: str,
    mapping: dict[str, str] | None = None,
    currency: str = "",
    make_categories: bool = False,
    restart: bool = False,
    watch: Watch = lambda _: None,
) -> ImportProgress:
    """Imports a file of products through the edge. OperatorError when it cannot be read, or the mesh refuses."""
    source = Source(path)
    columns = ColumnMap.detect(source.columns, mapping or {}, currency)
    async with CatalogClient(edge_url, email, password) as client:
        products = ProductImport(source, columns, client, make_categories=make_categories)
        with products.checkpoint(edge_url, restart=restart) as checkpoint:
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
    edge_url: Annotated[
        str, typer.Option(envvar="EDGE_URL", help="The edge; from .mesh/dev.env when not given.")
    ] = "",
    email: Annotated[str, typer.Option(envvar="ADMIN_EMAIL", help="Who imports.")] = "",
    password: Annotated[
        str, typer.Option(envvar="ADMIN_PASSWORD", help="Their password.", show_envvar=True)
    ] = "",
) -> None:
    """Creates and updates products by their SKU. Running it again changes nothing; a stopped run goes on."""
    mapping = dict(_pair(text) for text in map or [])
    if stock_column:
        mapping["stock"] = stock_column
    known = _dev_env() if not (edge_url and email and password) else {}
    source = Source(file)
    columns = ColumnMap.detect(source.columns, mapping, currency)
    print("Columns: " + ", ".join(f"{name} ← {column}" for name, column in columns.columns.items()))
    with _bar(source) as watch:
        progress = asyncio.run(
            import_products(
                file,
                edge_url=edge_url or known.get("EDGE_URL", ""),
                email=email or known.get("ADMIN_EMAIL", ""),
                password=password or known.get("ADMIN_PASSWORD", ""),
                mapping=mapping,
                currency=currency,
                make_categories=create_categories,
                restart=restart,
                watch=watch,
            )
        )
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


def _dev_env(path: Path = Path(".mesh/dev.env")) -> dict[str, str]:
    """What `up` wrote down for whoever develops."""
    if not path.exists():
        raise OperatorError(
            "Which mesh? Start one with ./scripts/up, or give --edge-url, --email and --password."
        )
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value.strip("\"'") for name, _, value in pairs}


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
