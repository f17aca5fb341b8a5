"""One call, `get` or `place`; prints `ok`, or the error that it ended with, as JSON."""

import json
import sys

from protomesh.catalog.v1.product_service_pb2 import GetProductRequest
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest

from protomesh_sdk import Mesh, MeshError

url, what, product_id, *token = sys.argv[1:]
metadata = tuple(("authorization", f"Bearer {each}") for each in token)
with Mesh(url) as mesh:
    try:
        if what == "get":
            mesh.catalog.products.GetProduct(GetProductRequest(id=product_id))
        else:
            lines = [PlaceOrderLine(product_id=product_id, quantity=1)]
            mesh.orders.PlaceOrder(PlaceOrderRequest(lines=lines), metadata=metadata)
        print(json.dumps("ok"))
    except MeshError as error:
        print(json.dumps([type(error).__name__, error.reason, error.metadata]))
