"""Scoped rows: each statement has the caller's scope in its WHERE, so rows outside it do not exist for the caller."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, bindparam, select

from chassis.core.errors import NotFound
from chassis.core.identifiers import identifier
from chassis.data.database import Database
from chassis.data.keyset import Expression
from chassis.data.listings import Listing, Page
from chassis.data.models import Resource
from chassis.data.queries import Query, Row
from chassis.data.unit_of_work import UnitOfWork

Entity = TypeVar("Entity", bound=Resource)

# The caller's id; a scope compares with it: `Note.owner_id == CALLER`.
CALLER = bindparam("caller_id", type_=Uuid)
_ID = bindparam("id", type_=Uuid)


class Scoped(Generic[Entity]):
    """Gets, lists and locks the rows of a model that are within a caller's scope; define it once, at import.

    `scope` is the condition, on `CALLER`. A row outside it fails like one that does not exist: NotFound, with the
    reason and the message in `missing`. A list is ordered newest first unless `order_by` says otherwise; its `filters`
    are those of a Listing.
    """

    def __init__(
        self,
        model: type[Entity],
        scope: ColumnElement[bool],
        *,
        missing: tuple[str, str],
        order_by: Sequence[Expression] = (),
        filters: Mapping[str, ColumnElement[bool]] | None = None,
    ) -> None:
        self._missing = missing
        mine = select(*model.__table__.columns).where(scope)
        newest = (model.created_at.desc(), model.id.desc())
        self._get = Query(mine.where(model.id == _ID))
        self._list = Listing(mine, order_by=order_by or newest, filters=filters)
        self._lock = select(model).where(model.id == _ID, scope).with_for_update(of=model, key_share=True)

    async def get(self, database: Database, id: UUID | str, caller_id: UUID) -> Row:
        """Returns a row in the caller's scope."""
        row = await database.one(self._get, id=identifier(id), caller_id=caller_id)
        if row is None:
            raise self.missing()
        return row

    async def fetch(
        self, database: Database, request: Any, caller_id: UUID, filters: Mapping[str, Any] | None = None
    ) -> Page:
        """Returns a page of the rows in the caller's scope; see Listing.fetch."""
        return await self._list.fetch(database, request, filters=filters, scope={"caller_id": caller_id})

    async def lock(self, work: UnitOfWork, id: UUID | str, caller_id: UUID) -> Entity:
        """Returns a row in the caller's scope as an entity, locked until the unit of work ends.

        A caller does not wait for rows outside the scope. A scope that reads other tables is evaluated at the
        statement's start: what may have changed while it waited for the row must be checked again.
        """
        entity = await self.find_and_lock(work, id, caller_id)
        if entity is None:
            raise self.missing()
        return entity

    async def find_and_lock(self, work: UnitOfWork, id: UUID | str, caller_id: UUID) -> Entity | None:
        """Like `lock`, but returns None for a row that does not exist or that the caller may not see."""
        found = await work.execute(self._lock, {"id": identifier(id), "caller_id": caller_id})
        entity: Entity | None = found.scalar_one_or_none()
        return entity

    def missing(self) -> NotFound:
        """Returns the error for a row that does not exist, which is the same for one that the caller may not see."""
        return NotFound(*self._missing)
