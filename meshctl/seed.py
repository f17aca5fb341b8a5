"""`meshctl seed`: sample accounts, categories, products and stock, written as a client would write them."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from meshctl.deployables import SERVICES
from meshctl.failure import OperatorError
from meshctl.folder import MeshFolder
from meshctl.import_columns import ColumnMap
from meshctl.import_source import Source
from meshctl.importing import import_products
from meshctl.options import DEFAULT_FOLDER
from meshctl.session import EdgeSession

SAMPLES = SERVICES / "catalog/samples/products.jsonl"
STAFF_EMAIL, CUSTOMER_EMAIL = "staff@protomesh.local", "customer@protomesh.local"


def seed(
    data: Annotated[Path, typer.Option(help="Data folder of a mesh that runs.")] = DEFAULT_FOLDER,
) -> None:
    """Loads the sample data through the edge. What is there already stays as it is."""
    folder = MeshFolder(data.resolve())
    values = dict(line.split("=", 1) for line in folder.dev_env.read_text().splitlines())
    with httpx.Client(base_url=values["EDGE_URL"], trust_env=False, timeout=15) as client:
        grant = _post(
            client, "/v1/users/login", email=values["ADMIN_EMAIL"], password=values["ADMIN_PASSWORD"]
        )
        client.headers["authorization"] = f"Bearer {grant['access_token']}"
        _accounts(client, folder)
    asyncio.run(_products(folder))


def _accounts(client: httpx.Client, folder: MeshFolder) -> None:
    for email in (STAFF_EMAIL, CUSTOMER_EMAIL):
        name = email.partition("@")[0]
        password = folder.secrets().get(f"{name}_password")
        account = _post(client, "/v1/users/register", username=name, email=email, password=password)
        if account and email == STAFF_EMAIL:
            _put(client, f"/v1/users/{account['id']}/role", role="staff")


async def _products(folder: MeshFolder) -> None:
    # An import keeps its progress and its rejects beside the file, which may lie where nothing can be written.
    file = folder.root / SAMPLES.name
    file.write_bytes(SAMPLES.read_bytes())
    source = Source(file)
    columns = ColumnMap.detect(source.columns, {})
    async with EdgeSession.of(folder.root) as session:
        progress = await import_products(source, columns, session, create_categories=True)
    file.unlink()
    if progress.rejected:
        raise OperatorError(
            f"The catalog rejected {progress.rejected} sample products: see {source.rejects}."
        )


def _post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    return _answer(client.post(path, json=body))


def _put(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    return _answer(client.put(path, json=body))


def _answer(response: httpx.Response) -> dict[str, Any]:
    """The body; empty when what was to be made exists."""
    if response.status_code == httpx.codes.CONFLICT:
        return {}
    if response.is_error:
        request = response.request
        raise OperatorError(
            f"{request.method} {request.url.path} answered {response.status_code}: {response.text}"
        )
    return dict(response.json())
