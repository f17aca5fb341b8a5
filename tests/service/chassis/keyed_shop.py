"""A service with one RPC that takes an idempotency key."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from protomesh.ordering.v1 import order_service_pb2
from protomesh.ordering.v1.order_pb2 import Order

from chassis import contract
from chassis.data import Database, idempotency_keys
from chassis.rpc import Call, Caller, current_call
from chassis.rpc.stages import Idempotency
from tests.service.chassis.things import Thing, happened

PLACE_ORDER = contract.method_at("/protomesh.ordering.v1.OrderService/PlaceOrder")

REQUEST = order_service_pb2.PlaceOrderRequest(shipping_note="a")

OTHER_REQUEST = order_service_pb2.PlaceOrderRequest(shipping_note="b")

Handler = Callable[[Any, Call], Awaitable[Order]]


@dataclass(frozen=True)
class Sent:
    """gRPC's context, for its metadata alone."""

    metadata: Sequence[tuple[str, str]]

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self.metadata


class Shop:
    """A service with one RPC, called through the stage as the pipeline does."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stage = Idempotency(database)
        self.executions: list[str] = []

    async def place(self, request: Any, call: Call) -> Order:
        """A handler with one unit of work, resumable: it makes what carries the operation's id unless it is there."""
        self.executions.append(call.operation_id)
        async with self.database.unit_of_work() as work:
            if await work.get(Thing, call.operation_id) is None:
                work.add(Thing(id=call.operation_id, name=request.shipping_note))
                work.publish(happened(call.operation_id), version=1)
        return Order(id=call.operation_id)

    def dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Has a failure leave what the death of its process leaves: a key that nobody frees."""
        monkeypatch.setattr(idempotency_keys, "release", never)

    async def call(
        self, key: str, request: Any = REQUEST, handler: Handler | None = None, user: str = "buyer"
    ) -> tuple[Order, Call]:
        call = self.new_call(key, user=user)
        return await self.run(call, request, handler), call

    def new_call(self, *keys: str, user: str = "buyer") -> Call:
        call = Call(
            PLACE_ORDER, {"idempotency-key": keys[-1]}, Sent([("idempotency-key", key) for key in keys])
        )
        call.caller = Caller(user_id=user)
        call.deadline = asyncio.get_running_loop().time() + 2
        return call

    async def run(self, call: Call, request: Any = REQUEST, handler: Handler | None = None) -> Order:
        """In a task of its own, as each call of gRPC has one."""

        async def answer() -> Order:
            current_call.set(call)
            return await self.stage(handler or self.place, request, call)

        return await asyncio.create_task(answer())

    async def leases_end(self) -> None:
        await self._change("locked_until = now() - interval '1 s'")

    async def keeping_time_ends(self) -> None:
        await self._change("expires_at = now()")

    async def _change(self, assignment: str) -> None:
        async with self.database.connection() as connection:
            await connection.execute(f"UPDATE idempotency_keys SET {assignment}")


async def never(*_: object) -> None:
    await asyncio.Event().wait()
