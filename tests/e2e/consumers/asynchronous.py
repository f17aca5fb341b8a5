"""Signs in, buys, follows the order and misses a product, by the client for asyncio; prints what it saw as JSON."""

import asyncio
import json
import sys

from protomesh.catalog.v1.product_service_pb2 import GetProductRequest
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest, WatchOrderRequest

from protomesh_sdk import AsyncMesh, MeshError


async def main(url: str, product_id: str, email: str) -> None:
    seen: list[object] = []
    async with AsyncMesh(url) as mesh:
        await mesh.login(email, "correct horse battery")
        lines = [PlaceOrderLine(product_id=product_id, quantity=1)]
        order = await mesh.orders.PlaceOrder(PlaceOrderRequest(lines=lines))
        async for watched in mesh.orders.WatchOrder(WatchOrderRequest(id=order.id)):
            seen.append(watched.id == order.id)
            break
        try:
            await mesh.catalog.products.GetProduct(GetProductRequest(id=order.id))
        except MeshError as error:
            seen.append([type(error).__name__, error.reason])
        await mesh.logout()
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
