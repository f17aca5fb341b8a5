"""What catalog does about facts of other services."""

from uuid import UUID

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import UnitOfWork
from chassis.events import Envelope
from services.catalog import stock_repository


async def release_stock(event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
    """Gives a cancelled order's units back; an order whose reservation comes late will find itself closed.

    Units that are sold already are a contradiction that a person must see: the event ends as a dead letter.
    """
    await stock_repository.release(work, UUID(event.order_id))
