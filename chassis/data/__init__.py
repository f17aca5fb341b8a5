"""A service's own PostgreSQL database: queries, units of work with their outbox, listings, keys, migrations."""

from chassis.data import (
    bulkheads,
    cursor,
    database,
    idempotency_keys,
    listings,
    migrations,
    retention,
    totals,
)
from chassis.data.database import Database
from chassis.data.listings import Listing, Page, window
from chassis.data.migrations import upgrade
from chassis.data.models import Model, Resource
from chassis.data.pool import PoolBusy
from chassis.data.queries import Prepared, Query, Row, containing
from chassis.data.ranked_listings import RankedListing
from chassis.data.refusals import Refusal, Refusals
from chassis.data.scoped import CALLER, Scoped
from chassis.data.unit_of_work import UnitOfWork

__all__ = [
    "CALLER",
    "Database",
    "Listing",
    "Model",
    "Page",
    "PoolBusy",
    "Prepared",
    "Query",
    "RankedListing",
    "Refusal",
    "Refusals",
    "Resource",
    "Row",
    "Scoped",
    "UnitOfWork",
    "audit_records",
    "bulkheads",
    "containing",
    "cursor",
    "database",
    "idempotency_keys",
    "listings",
    "migrations",
    "retention",
    "totals",
    "upgrade",
    "window",
]
