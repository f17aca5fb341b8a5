"""What catalog does about facts of other services."""

from uuid import UUID

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderExpired

from chassis.data import UnitOfWork
from chassis.events import Envelope
from services.catalog import reservation_repository


async def release_stock(event: OrderCancelled | OrderExpired, _: Envelope, work: UnitOfWork) -> None:
    """Gives the units of an order that is over back; a reservation that comes late will find the order closed.

    Units that are sold already are a contradiction that a person must see: the event ends as a dead letter.
    """
    await reservation_repository.release(work, UUID(event.order_id))
