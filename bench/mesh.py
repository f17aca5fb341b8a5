"""A separate mesh for measuring: in a temporary folder, on a free port, removed afterwards."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dotenv
import httpx

from meshctl.core.folder import MeshFolder
from meshctl.core.ports import Ports
from meshctl.mesh import control

ROOT = Path(__file__).parents[1]
# Enough buyers that the limit on one caller's orders does not distort the figures.
BUYERS = 40
LOGIN_PATH = "/v1/users/login"
# All load comes from one address and few buyers, and their limits must not distort the figures either.
UNLIMITED = {
    "PROTOMESH_EDGE_ADDRESS_REQUESTS_PER_SECOND": "100000",
    "PROTOMESH_EDGE_ADDRESS_BURST": "100000",
    "PROTOMESH_UNPAID_ORDERS_PER_BUYER": "1000000",
}


@dataclass(frozen=True)
class BenchMesh:
    """A running mesh with products, and the access tokens of its administrator and its buyers."""

    folder: MeshFolder
    edge_url: str
    admin_token: str
    tokens: list[str]
    wiring: dict[str, Any]
    product_ids: list[str]
    jwks: str

    def processes(self) -> dict[str, int]:
        """Returns the process id of each process of the mesh, by name."""
        status = control.ask(self.folder.control, {"command": "status"})
        named = {"edge": "Envoy", "postgres": "PostgreSQL", "nats": "NATS", "valkey": "Valkey"}
        return {named.get(state["name"], state["name"]): state["pid"] for state in status}


@contextlib.contextmanager
def running(workers: int, products: int = 1000) -> Iterator[BenchMesh]:
    """Starts a mesh with `products` of plentiful stock, and stops it."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        port = str(Ports().take())
        command = [sys.executable, "-m", "meshctl"]
        up = (
            "up",
            "--data",
            folder,
            "--port",
            port,
            "--workers",
            str(workers),
            "--no-sample-data",
            "--detach",
        )
        subprocess.run(
            [*command, *up], cwd=ROOT, env=os.environ | UNLIMITED, check=True, stdout=subprocess.DEVNULL
        )
        try:
            yield _filled(MeshFolder(Path(folder)), products)
        finally:
            subprocess.run(
                [*command, "down", "--data", folder], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
            )


def _filled(folder: MeshFolder, products: int) -> BenchMesh:
    known = dotenv.dotenv_values(folder.dev_env)
    edge_url = str(known["EDGE_URL"])
    with httpx.Client(base_url=edge_url, trust_env=False, timeout=30) as client:
        admin = _login(client, str(known["ADMIN_EMAIL"]), str(known["ADMIN_PASSWORD"]))
        rows = [_row(number) for number in range(products)]
        ids: list[str] = []
        for start in range(0, products, 500):
            answer = client.post(
                "/v1/products:batchImport",
                json={"rows": rows[start : start + 500]},
                headers={"authorization": f"Bearer {admin}"},
            )
            answer.raise_for_status()
            ids += [result["product_id"] for result in answer.json()["results"]]
        register_buyers(edge_url)
        tokens = [_login(client, **credentials(number)) for number in range(BUYERS)]
        jwks = client.get("/.well-known/jwks.json").text
    wiring = control.ask(folder.control, {"command": "wiring"})
    return BenchMesh(folder, edge_url, admin, tokens, wiring, ids, json.dumps(json.loads(jwks)))


def credentials(number: int) -> dict[str, str]:
    """Returns the credentials of a buyer."""
    return {"email": f"buyer{number}@example.com", "password": "measure for measure"}


def register_buyers(base_url: str) -> None:
    """Registers all buyers with the mesh or with a peer."""
    with httpx.Client(base_url=base_url, trust_env=False, timeout=30) as client:
        for number in range(BUYERS):
            buyer = {"username": f"buyer{number}", **credentials(number)}
            client.post("/v1/users/register", json=buyer).raise_for_status()


def _login(client: httpx.Client, email: str, password: str) -> str:
    answer = client.post(LOGIN_PATH, json={"email": email, "password": password})
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def _row(number: int) -> dict[str, Any]:
    return {
        "sku": f"BENCH-{number:05}",
        "name": f"Benchmark product {number}",
        "description": "Measured, not sold.",
        "price": {"currency_code": "GBP", "amount_minor": str(100 + number)},
        "initial_stock": 1_000_000,
    }
