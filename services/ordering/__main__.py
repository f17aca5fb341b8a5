"""Starts ordering."""

from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub

from chassis.data import bulkheads
from chassis.service import Service, run
from services.ordering.changes import Changes
from services.ordering.order_service import OrderService
from services.ordering.placement import Placement


async def compose(service: Service) -> None:
    inventory = InventoryServiceStub(service.mesh)
    connections = bulkheads.shares(service.settings.database_pool_size)
    placement = Placement(service.database, inventory, at_once=connections["calls"])
    changes = Changes(service.database)
    service.serve("protomesh.ordering.v1.OrderService", OrderService(service.database, placement, changes))
    service.background(placement.recover)
    service.beside_server(changes.listen)


if __name__ == "__main__":
    run("ordering", compose)
