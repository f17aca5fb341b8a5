"""The subscriptions of catalog to events of other services."""

from uuid import UUID

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderExpired

from chassis.data import UnitOfWork
from chassis.events import Envelope
from services.catalog import reservation_repository


async def release_stock(event: OrderCancelled | OrderExpired, _: Envelope, work: UnitOfWork) -> None:
    """Releases the units of an order that has ended; a call to reserve that arrives late finds the order closed.

    Units that are already sold are a contradiction that a person must resolve: the event becomes a dead letter.
    """
    await reservation_repository.release(work, UUID(event.order_id))
