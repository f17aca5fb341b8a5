"""Starts ordering."""

from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderExpired, OrderPlaced

from chassis.service import Service, run
from services.ordering import expiry
from services.ordering.order_service import OrderService
from services.ordering.placement import Placement
from services.ordering.settings import OrderingSettings
from services.ordering.unclaimed import UnclaimedStock


async def compose(service: Service) -> None:
    settings, database = service.settings, service.database
    assert isinstance(settings, OrderingSettings)
    inventory = InventoryServiceStub(service.mesh)
    placement = Placement(database, inventory, settings)
    changes = service.live(OrderPlaced, OrderCancelled, OrderExpired)
    service.serve("protomesh.ordering.v1.OrderService", OrderService(database, placement, changes))
    service.background(lambda: expiry.run(database))
    service.background(UnclaimedStock(database, inventory).run)


if __name__ == "__main__":
    run("ordering", compose, settings=OrderingSettings)
