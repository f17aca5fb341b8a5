"""Rows that are changed in place, under a version."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Mapped


class Versioned:
    """A row whose every change moves its version on; a change that was made on an old version fails.

    The model declares both columns, and `__mapper_args__ = {"version_id_col": version}`.
    """

    version: Mapped[int]
    updated_at: Mapped[datetime]

    def change(self, **values: Any) -> bool:
        """Sets what differs; whether anything did."""
        different = {name: value for name, value in values.items() if getattr(self, name) != value}
        for name, value in different.items():
            setattr(self, name, value)
        if different:
            self.updated_at = datetime.now(UTC)
        return bool(different)
