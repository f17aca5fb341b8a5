"""The peer of the edge: the same endpoints as a plain FastAPI service, as its users would write it today.

FastAPI on uvicorn (uvloop, httptools), SQLAlchemy's async ORM on psycopg, a bearer JWT verified on every request,
pydantic answers, and OpenTelemetry with a span for the request and one for the database, exported in batches. It
reads the same tables as catalog. Nothing in it is slowed down: it has no mTLS, no gateway and no rate limit, all of
which favors it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import grpc
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, ForeignKey, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DATABASE_URL = os.environ["BENCH_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
OTLP_ENDPOINT = os.environ["BENCH_OTLP_ENDPOINT"]
TLS = Path(os.environ["BENCH_TLS_DIRECTORY"])
KEYS = KeySet.import_key_set(json.loads(os.environ["BENCH_JWKS"]))
CLAIMS = jwt.JWTClaimsRegistry(
    iss={"essential": True, "value": "protomesh"}, aud={"essential": True, "value": "protomesh"}
)


class Table(DeclarativeBase):
    pass


class StockRow(Table):
    __tablename__ = "stock"
    product_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    available: Mapped[int]
    reserved: Mapped[int]


class ProductRow(Table):
    __tablename__ = "products"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    sku: Mapped[str]
    name: Mapped[str]
    description: Mapped[str]
    category_id: Mapped[uuid.UUID | None]
    currency_code: Mapped[str]
    price_minor: Mapped[int]
    status: Mapped[str]
    image_urls: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    version: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    stock: Mapped[StockRow] = relationship(lazy="raise")

    @property
    def price(self) -> dict[str, Any]:
        return {"currency_code": self.currency_code, "amount_minor": self.price_minor}

    @property
    def available(self) -> int:
        return self.stock.available

    @property
    def in_stock(self) -> bool:
        return self.stock.available > 0


class OrderRow(Table):
    __tablename__ = "bench_orders"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    buyer_id: Mapped[str]
    total_minor: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[list[OrderItemRow]] = relationship(lazy="raise")


class OrderItemRow(Table):
    __tablename__ = "bench_order_items"
    order_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("bench_orders.id"), primary_key=True)
    product_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    quantity: Mapped[int]
    unit_price_minor: Mapped[int]


class Money(BaseModel):
    currency_code: str
    amount_minor: int


class Product(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: uuid.UUID
    sku: str
    name: str
    description: str
    category_id: uuid.UUID | None
    price: Money
    status: str
    available: int
    in_stock: bool
    image_urls: list[str]
    created_at: datetime
    updated_at: datetime


class Meta(BaseModel):
    total: int
    page: int
    limit: int


class Products(BaseModel):
    data: list[Product]
    meta: Meta


class Line(BaseModel):
    product_id: uuid.UUID
    quantity: Annotated[int, Field(ge=1, le=100_000)]


class NewOrder(BaseModel):
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)]


class Order(BaseModel):
    id: uuid.UUID
    total: int
    status: str = "pending_payment"


def _tracer() -> trace.Tracer:
    credentials = grpc.ssl_channel_credentials(
        (TLS / "ca.pem").read_bytes(),
        (TLS / "developer.key").read_bytes(),
        (TLS / "developer.pem").read_bytes(),
    )
    exporter = OTLPSpanExporter(
        endpoint=OTLP_ENDPOINT,
        credentials=credentials,
        channel_options=(("grpc.ssl_target_name_override", "observer"),),
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "fastapi-peer"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider.get_tracer("bench")


tracer = _tracer()
engine = create_async_engine(DATABASE_URL, pool_size=10)
sessions = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        # One worker at a time: two that create a table at once collide.
        await connection.execute(select(func.pg_advisory_xact_lock(1)))
        await connection.run_sync(Table.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


class Traced:
    """A span around each request: a plain ASGI middleware, the cheapest kind."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        context = extract({name.decode(): value.decode() for name, value in scope["headers"]})
        kind = trace.SpanKind.SERVER
        with tracer.start_as_current_span(scope["method"], context, kind=kind, attributes=attributes) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, send_and_note)


app.add_middleware(Traced)


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened


def caller(authorization: Annotated[str, Header()]) -> str:
    try:
        token = jwt.decode(authorization.removeprefix("Bearer "), KEYS, algorithms=["ES256"])
        CLAIMS.validate(token.claims)
    except (JoseError, ValueError) as error:
        raise HTTPException(401, "The token does not hold.") from error
    return str(token.claims["sub"])


Session = Annotated[AsyncSession, Depends(session)]
Caller = Annotated[str, Depends(caller)]
_PRODUCTS = select(ProductRow).options(joinedload(ProductRow.stock))


@app.get("/v1/products/{id}:any", response_model=Product)
async def get_product(id: uuid.UUID, session: Session, caller: Caller) -> ProductRow:
    with tracer.start_as_current_span("SELECT", kind=trace.SpanKind.CLIENT):
        product = (await session.execute(_PRODUCTS.where(ProductRow.id == id))).scalar_one_or_none()
    if product is None:
        raise HTTPException(404, "No such product.")
    return product


@app.get("/v1/products:all", response_model=Products)
async def list_products(
    session: Session,
    caller: Caller,
    page: Annotated[int, Query(ge=1)] = 1,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    with tracer.start_as_current_span("SELECT", kind=trace.SpanKind.CLIENT):
        total = (await session.execute(select(func.count()).select_from(_PRODUCTS.subquery()))).scalar_one()
        rows = await session.execute(
            _PRODUCTS.order_by(ProductRow.created_at.desc(), ProductRow.id.desc())
            .offset((page - 1) * limit)
            .limit(limit)
        )
    return {"data": rows.scalars().all(), "meta": {"total": total, "page": page, "limit": limit}}


@app.post("/v1/orders", response_model=Order, status_code=201)
async def place_order(new: NewOrder, session: Session, caller: Caller) -> Order:
    """One transaction in one database: what a monolith does, with no idempotency key, saga or event."""
    with tracer.start_as_current_span("place order", kind=trace.SpanKind.CLIENT):
        async with session.begin():
            ids = [line.product_id for line in new.lines]
            products = {
                row.id: row for row in await session.scalars(select(ProductRow).where(ProductRow.id.in_(ids)))
            }
            items = []
            for line in sorted(new.lines, key=lambda line: line.product_id):
                taken = await session.execute(
                    update(StockRow)
                    .where(StockRow.product_id == line.product_id, StockRow.available >= line.quantity)
                    .values(
                        available=StockRow.available - line.quantity,
                        reserved=StockRow.reserved + line.quantity,
                    )
                )
                if taken.rowcount == 0:
                    raise HTTPException(409, "Out of stock.")
                price = products[line.product_id].price_minor
                items.append(
                    OrderItemRow(product_id=line.product_id, quantity=line.quantity, unit_price_minor=price)
                )
            total = sum(item.quantity * item.unit_price_minor for item in items)
            order = OrderRow(buyer_id=caller, total_minor=total, items=items)
            session.add(order)
    return Order(id=order.id, total=total)
