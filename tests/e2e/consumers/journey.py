"""What a customer does with the SDK, from signing up to signing out; prints what they saw as JSON."""

import json
import sys
import time
import uuid
from typing import Any
from unittest import mock

from protomesh.catalog.v1.product_service_pb2 import GetProductRequest, ListProductsRequest
from protomesh.identity.v1.auth_service_pb2 import RegisterUserRequest
from protomesh.identity.v1.user_service_pb2 import GetMeRequest
from protomesh.ordering.v1.order_service_pb2 import (
    ListOrdersRequest,
    PlaceOrderLine,
    PlaceOrderRequest,
    WatchOrderRequest,
)

from protomesh_sdk import InvalidArgument, Mesh, NotFound, Unauthenticated, rows

url, product_id = sys.argv[1:]
name = f"sdk-{uuid.uuid4().hex[:12]}"
email, password = f"{name}@example.com", "correct horse battery"
seen: dict[str, Any] = {}
with Mesh(url) as mesh:
    try:
        mesh.orders.ListOrders(ListOrdersRequest())
    except Unauthenticated as error:
        seen["signed_out"] = error.reason
    try:
        mesh.identity.auth.RegisterUser(RegisterUserRequest(username=name, email=email, password="short"))
    except InvalidArgument as error:
        seen["violations"] = [violation.field for violation in error.violations]
    registered = mesh.identity.auth.RegisterUser(
        RegisterUserRequest(username=name, email=email, password=password)
    )
    mesh.login(email, password)
    first = mesh.session.access_token()
    order = mesh.orders.PlaceOrder(
        PlaceOrderRequest(lines=[PlaceOrderLine(product_id=product_id, quantity=2)])
    )
    seen["bought"] = sum(line.quantity for line in order.lines)
    seen["orders"] = [
        each.id == order.id for each in rows(mesh.orders.ListOrders, ListOrdersRequest(limit=1))
    ]
    seen["watched"] = next(iter(mesh.orders.WatchOrder(WatchOrderRequest(id=order.id)))).id == order.id
    seen["some_products"] = len(mesh.catalog.products.ListProducts(ListProductsRequest(limit=3)).data) > 0
    try:
        mesh.catalog.products.GetProduct(GetProductRequest(id=str(uuid.uuid4())))
    except NotFound as error:
        seen["not_found"] = error.reason
    later = time.monotonic() + 580
    with mock.patch("time.monotonic", return_value=later):
        seen["renewed"] = mesh.session.access_token() != first
    seen["me"] = mesh.identity.users.GetMe(GetMeRequest()).id == registered.id
    mesh.logout()
    try:
        mesh.identity.users.GetMe(GetMeRequest())
    except Unauthenticated as error:
        seen["after_logout"] = error.reason
print(json.dumps(seen))
