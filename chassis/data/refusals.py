"""Refusals: the errors that callers get for violated constraints."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import sqlalchemy.exc

from chassis.core.errors import MeshError


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error to raise; `metadata` names the values of the row that it includes."""

    error: type[MeshError]
    reason: str
    message: str
    metadata: Sequence[str] = ()


class Refusals:
    """Refusals by the name of the constraint in the migrations. A test checks that each constraint exists."""

    def __init__(self, by_constraint: Mapping[str, Refusal]) -> None:
        self.by_constraint = dict(by_constraint)

    @contextmanager
    def told(self, **row: str) -> Iterator[None]:
        """Wraps writes: raises the refusal for the constraint that PostgreSQL reports as violated.

        The database decides, since a check before the write can be overtaken by another transaction.
        """
        try:
            yield
        except (psycopg.IntegrityError, sqlalchemy.exc.IntegrityError) as error:
            # SQLAlchemy wraps the driver's exception.
            diagnosis = getattr(getattr(error, "orig", error), "diag", None)
            refusal = self.by_constraint.get(getattr(diagnosis, "constraint_name", None) or "")
            if refusal is None:
                raise
            metadata = {name: row[name] for name in refusal.metadata}
            raise refusal.error(refusal.reason, refusal.message, metadata=metadata) from None
