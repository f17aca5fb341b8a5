"""Base classes of tables: one base for all services, and the columns that every resource has."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, ClassVar, Self
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import BigInteger, DateTime, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chassis.contract import mapping
from chassis.core.identifiers import identifier

# Constraints get the same names in every database, so that migrations can refer to them.
_NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class Model(DeclarativeBase):
    """A table. Its constraints and indexes are in the migrations.

    `values` and `sent` read a request as values for the columns of the same names: where the column is a UUID, text
    becomes a UUID and an empty text NULL. A field without a column must be named in `without`; otherwise they raise
    TypeError, so that nothing in a request is lost silently.
    """

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
        int: BigInteger(),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }

    @classmethod
    def values(cls, request: Message, *, without: Collection[str] = ()) -> dict[str, Any]:
        """Returns the values of all fields of a request, for a new row."""
        return cls._columns(mapping.values(request), request, without)

    @classmethod
    def sent(cls, request: Message, *, without: Collection[str] = ()) -> dict[str, Any]:
        """Returns what a partial update changes: the optional fields that were sent, and non-empty lists."""
        return cls._columns(mapping.sent(request), request, without)

    @classmethod
    def _columns(cls, said: dict[str, Any], request: Message, without: Collection[str]) -> dict[str, Any]:
        columns = cls.__table__.columns
        found: dict[str, Any] = {}
        for name, value in said.items():
            if name in without:
                continue
            if name not in columns:
                raise TypeError(
                    f"{request.DESCRIPTOR.full_name}.{name} has no column in {cls.__tablename__}."
                )
            identifies = isinstance(columns[name].type, Uuid)
            found[name] = value if not identifies else identifier(value) if value else None
        return found


class Resource(Model):
    """A row with an identity and a version, which is its ETag; a change based on an old version fails."""

    __abstract__ = True

    id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy declares the name)

    @classmethod
    def new(cls, id: UUID | str, **values: Any) -> Self:
        """Returns a row at its first version, which is not written yet."""
        now = datetime.now(UTC)
        return cls(id=identifier(id), version=1, created_at=now, updated_at=now, **values)

    def change(self, **values: Any) -> bool:
        """Sets the values that differ; returns whether any did. The version increases when the change is written."""
        different = {name: value for name, value in values.items() if getattr(self, name) != value}
        for name, value in different.items():
            setattr(self, name, value)
        if different:
            self.touch()
        return bool(different)

    def touch(self) -> None:
        """Counts a change in another table of what belongs to the resource as a change of the resource itself."""
        self.updated_at = datetime.now(UTC)
