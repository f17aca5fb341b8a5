"""Starts ordering."""

from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub

from chassis.service import Service, run
from services.ordering import expiry
from services.ordering.changes import Changes
from services.ordering.order_service import OrderService
from services.ordering.placement import Placement
from services.ordering.settings import OrderingSettings
from services.ordering.unclaimed import UnclaimedStock


async def compose(service: Service) -> None:
    settings, database = service.settings, service.database
    assert isinstance(settings, OrderingSettings)
    inventory = InventoryServiceStub(service.mesh)
    placement, changes = Placement(database, inventory, settings), Changes(database)
    service.serve("protomesh.ordering.v1.OrderService", OrderService(database, placement, changes))
    service.background(lambda: expiry.run(database))
    service.background(UnclaimedStock(database, inventory).run)
    service.beside_server(changes.listen)


if __name__ == "__main__":
    run("ordering", compose, settings=OrderingSettings)
