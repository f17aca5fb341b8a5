"""Starts catalog."""

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderExpired

from chassis.service import Service, run
from services.catalog import reservation_expiry, subscribers
from services.catalog.category_service import CategoryService
from services.catalog.inventory_service import InventoryService
from services.catalog.product_service import ProductService
from services.catalog.reconciliation_service import ReconciliationService


async def compose(service: Service) -> None:
    service.serve("protomesh.catalog.v1.CategoryService", CategoryService(service.database))
    service.serve("protomesh.catalog.v1.ProductService", ProductService(service.database))
    service.serve("protomesh.catalog.v1.InventoryService", InventoryService(service.database))
    service.serve("protomesh.catalog.v1.ReconciliationService", ReconciliationService(service.database))
    service.subscribe(
        "catalog.release_stock",
        {OrderCancelled: subscribers.release_stock, OrderExpired: subscribers.release_stock},
    )
    service.background(lambda: reservation_expiry.run(service.database))


if __name__ == "__main__":
    run("catalog", compose)
