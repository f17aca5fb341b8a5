"""The goals for the figures, printed next to the results."""

from collections.abc import Mapping
from dataclasses import dataclass

EDGE, FASTAPI, FASTIFY = "edge", "FastAPI", "Fastify"


@dataclass(frozen=True)
class Goal:
    """A bound on one figure: on its ratio to a peer, on its rate, or on its median latency."""

    figure: str
    at_least: float | None = None
    at_most_ms: float | None = None
    against: str = ""

    def __str__(self) -> str:
        if self.at_most_ms is not None:
            return f"{self.figure} < {self.at_most_ms:g} ms"
        peer = self.against.removeprefix(self.figure.removesuffix(EDGE))
        return f"{self.figure} ≥ {self.at_least:,g}" + (f" × {peer}" if peer else "/s")

    def value(self, per_second: float, p50_ms: float | None, ratios: Mapping[str, float]) -> float | None:
        """Returns the value of a figure to which the goal applies."""
        if self.at_most_ms is not None:
            return p50_ms
        return ratios.get(self.against) if self.against else per_second

    def met_by(self, value: float) -> bool:
        """Whether a value is good enough."""
        if self.at_most_ms is not None:
            return value < self.at_most_ms
        return self.at_least is not None and value >= self.at_least


def _share(endpoint: str, at_least: float, peer: str) -> Goal:
    return Goal(f"{endpoint}: {EDGE}", at_least=at_least, against=f"{endpoint}: {peer}")


PRODUCT = "GET /v1/products/{id}:any"
PRODUCTS = "GET /v1/products:all?limit=20"
ORDER = "POST /v1/orders"
LOGIN = "POST /v1/users/login"
ECHO = "echo: chassis, everything on"
BARE_ECHO = "echo: bare grpc.aio, plain text"
EVENTS = "events: outbox → JetStream → inbox"
IMPORT = "import: POST /v1/products:batchImport"
SEARCH = "search: a sixth of 200,000 products"

GOALS = (
    Goal(ECHO, at_least=0.85, against=BARE_ECHO),
    _share(PRODUCT, 2.8, FASTAPI),
    _share(PRODUCT, 0.35, FASTIFY),
    _share(PRODUCTS, 2.5, FASTAPI),
    _share(PRODUCTS, 0.35, FASTIFY),
    Goal(f"{ORDER}: {EDGE}", at_least=300),
    _share(ORDER, 0.2, FASTIFY),
    _share(LOGIN, 0.8, FASTIFY),
    Goal(EVENTS, at_least=2500),
    Goal(IMPORT, at_least=5000),
    Goal(SEARCH, at_most_ms=20),
)
