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
from chassis.rpc import Call
from services.ordering import convert, repository
from services.ordering.changes import Changes
from services.ordering.model import FINAL, Status
from services.ordering.placement import Placement


class OrderService:
    """Orders: placing, following and cancelling them."""

    def __init__(self, database: Database, placement: Placement, changes: Changes) -> None:
        self._database = database
        self._placement = placement
        self._changes = changes

    async def PlaceOrder(self, request: PlaceOrderRequest, call: Call) -> Order:
        accepted = await self._placement.place(request, call)
        if accepted is not None:
            return accepted
        row = await repository.own(self._database, UUID(call.operation_id), UUID(call.caller.user_id))
        if row.status == Status.REJECTED:
            raise convert.rejection(row)
        return convert.order_message(row)

    async def GetOrder(self, request: GetOrderRequest, call: Call) -> Order:
        row = await repository.own(self._database, UUID(request.id), UUID(call.caller.user_id))
        return convert.order_message(row)

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
        order_id, buyer_id = UUID(request.id), UUID(call.caller.user_id)
        async with self._database.unit_of_work() as work:
            order = await repository.lock_own(work, order_id, buyer_id)
            if order.cancel(request.reason):
                await repository.record(work, order)
                await repository.abort_saga(work, order_id)
                work.publish(convert.order_cancelled(order), version=order.version)
        return convert.order_message(await repository.own(self._database, order_id, buyer_id))

    async def WatchOrder(self, request: WatchOrderRequest, call: Call) -> AsyncIterator[Order]:
        order_id, buyer_id = UUID(request.id), UUID(call.caller.user_id)
        seen = 0
        async for _ in self._changes.of(order_id, until=call):
            row = await repository.own(self._database, order_id, buyer_id)
            if row.version > seen:
                seen = row.version
                yield convert.order_message(row)
            if row.status in FINAL:
                return
