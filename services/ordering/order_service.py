"""The servicer of OrderService."""

from collections.abc import AsyncIterator
from uuid import UUID

from protomesh.ordering.v1.order_pb2 import Order
from protomesh.ordering.v1.order_service_pb2 import (
    CancelOrderRequest,
    GetOrderRequest,
    ListAllOrdersRequest,
    ListAllOrdersResponse,
    ListOrdersRequest,
    ListOrdersResponse,
    PlaceOrderRequest,
    WatchOrderRequest,
)

from chassis.data import Database
from chassis.events import Live
from chassis.rpc import Call
from services.ordering import convert, repository
from services.ordering.model import FINAL
from services.ordering.placement import Placement

# A watch ends by itself before its deadline, so that a client sees the end of the stream and not an error.
_MARGIN_SECONDS = 1.0


class OrderService:
    """Orders: placing, following and cancelling them."""

    def __init__(self, database: Database, placement: Placement, changes: Live) -> None:
        self._database = database
        self._placement = placement
        self._changes = changes

    async def PlaceOrder(self, request: PlaceOrderRequest, call: Call) -> Order:
        return await self._placement.place(request, call)

    async def GetOrder(self, request: GetOrderRequest, call: Call) -> Order:
        return convert.order_message(await repository.get(self._database, UUID(request.id), _scope(call)))

    async def ListOrders(self, request: ListOrdersRequest, call: Call) -> ListOrdersResponse:
        page = await repository.OWN_ORDERS.fetch(
            self._database,
            request,
            filters={"status": convert.status_name(request.status)},
            scope={"buyer_id": UUID(call.caller.user_id)},
        )
        return ListOrdersResponse(data=map(convert.order_message, page.rows), meta=page.meta)

    async def ListAllOrders(self, request: ListAllOrdersRequest, call: Call) -> ListAllOrdersResponse:
        filters = {"status": convert.status_name(request.status), "buyer_id": request.buyer_id}
        page = await repository.ALL_ORDERS.fetch(self._database, request, filters=filters)
        return ListAllOrdersResponse(data=map(convert.order_message, page.rows), meta=page.meta)

    async def CancelOrder(self, request: CancelOrderRequest, call: Call) -> Order:
        order_id, scope = UUID(request.id), _scope(call)
        async with self._database.unit_of_work() as work:
            order = await repository.lock(work, order_id, scope)
            if order.cancel(request.reason):
                await repository.record(work, order)
                work.publish(convert.order_cancelled(order), version=order.version)
        return convert.order_message(await repository.get(self._database, order_id, scope))

    async def WatchOrder(self, request: WatchOrderRequest, call: Call) -> AsyncIterator[Order]:
        order_id, buyer_id = UUID(request.id), UUID(call.caller.user_id)
        seen = 0
        async for _ in self._changes.changes(str(order_id), lambda: call.remaining() - _MARGIN_SECONDS):
            row = await repository.get(self._database, order_id, buyer_id)
            if row.version > seen:
                seen = row.version
                yield convert.order_message(row)
            if row.status in FINAL:
                return


def _scope(call: Call) -> UUID | None:
    """Returns whose orders the caller may see: their own, or (None) everybody's."""
    return None if call.privileged else UUID(call.caller.user_id)
