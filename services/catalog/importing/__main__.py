"""`python -m services.catalog.importing`: imports files. Streaming, idempotent, resumable; bad rows do not stop it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from chassis.core import Settings
from services.catalog.importing.checkpoint import ImportProgress
from services.catalog.importing.client import CatalogClient, SignIn, as_operator, by_password
from services.catalog.importing.columns import ColumnMap
from services.catalog.importing.failure import ImportFailed
from services.catalog.importing.run import Watch, import_products
from services.catalog.importing.source import Source

commands = typer.Typer(no_args_is_help=True, add_completion=False)


@commands.callback()
def _one_command_for_each_kind_of_file() -> None:
    """Import files into the mesh."""


@commands.command()
def products(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header, or JSON lines (.jsonl).")],
    map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Which column holds sku, name, description, price, currency, category, status or stock.",
        ),
    ] = None,
    currency: Annotated[str, typer.Option(help="The currency of prices without one, such as GBP.")] = "",
    stock_column: Annotated[
        str, typer.Option(help="The column with the units that new products start with.")
    ] = "",
    create_categories: Annotated[bool, typer.Option(help="Create categories that do not exist yet.")] = False,
    restart: Annotated[
        bool, typer.Option(help="Start over, even if an earlier run was interrupted.")
    ] = False,
    edge_url: Annotated[str, typer.Option(envvar="EDGE_URL", help="The edge of the mesh.")] = "",
    email: Annotated[
        str,
        typer.Option(
            envvar="ADMIN_EMAIL",
            help="The email address of the user who imports, whose password is in ADMIN_PASSWORD; without it, the "
            "operator of the mesh imports.",
        ),
    ] = "",
) -> None:
    """Creates and updates products by their SKU. Running it again changes nothing; an interrupted run continues."""
    if not edge_url:
        raise ImportFailed(
            "No mesh is running here: start one with ./scripts/up, or name its edge with --edge-url."
        )
    told = dict(_pair(text) for text in map or []) | ({"stock": stock_column} if stock_column else {})
    source = Source(file)
    columns = ColumnMap.detect(source.columns, told, currency)
    print("Columns: " + ", ".join(f"{field} from {column}" for field, column in columns.columns.items()))

    async def run(watch: Watch) -> ImportProgress:
        async with CatalogClient(edge_url, _sign_in(email)) as client:
            return await import_products(
                source, columns, client, create_categories=create_categories, restart=restart, watch=watch
            )

    with _bar(source) as watch:
        progress = asyncio.run(run(watch))
    print(
        f"{progress.rows} rows: {progress.created} created, {progress.updated} updated, "
        f"{progress.unchanged} unchanged, {progress.rejected} rejected."
    )
    if progress.rejected:
        print(f"Rejected rows, with reasons: {source.rejects}")


def _sign_in(email: str) -> SignIn:
    """A password is never an argument, which other accounts of the machine could read."""
    settings = Settings(service="operator")
    if not email and settings.tls_directory:
        return as_operator(settings)
    password = os.environ.get("ADMIN_PASSWORD", "")
    if not (email and password):
        raise ImportFailed("Say who imports: ADMIN_EMAIL and ADMIN_PASSWORD must be set.")
    return by_password(email, password)


def _pair(text: str) -> tuple[str, str]:
    field, equals, column = text.partition("=")
    if not (field and equals and column):
        raise ImportFailed(f"--map {text!r} is not of the form FIELD=COLUMN.")
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


if __name__ == "__main__":
    try:
        commands(prog_name="import")
    except ImportFailed as failure:
        sys.exit(str(failure))
