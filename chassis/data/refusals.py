"""What a broken constraint means to the caller."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from chassis.core.errors import MeshError


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error to raise; `metadata` names what of the row it tells."""

    error: type[MeshError]
    reason: str
    message: str
    metadata: Sequence[str] = ()


class Refusals:
    """Refusals by the names of constraints, as the migrations give them. A test holds that each of them exists."""

    def __init__(self, by_constraint: Mapping[str, Refusal]) -> None:
        self.by_constraint = dict(by_constraint)

    @contextmanager
    def told(self, **row: str) -> Iterator[None]:
        """Around what writes: raises the refusal of the constraint that PostgreSQL says was broken.

        The database decides, since whoever looks first and writes then can be overtaken.
        """
        try:
            yield
        except IntegrityError as error:
            diagnosis = getattr(error.orig, "diag", None)
            refusal = self.by_constraint.get(getattr(diagnosis, "constraint_name", None) or "")
            if refusal is None:
                raise
            metadata = {name: row[name] for name in refusal.metadata}
            raise refusal.error(refusal.reason, refusal.message, metadata=metadata) from None
