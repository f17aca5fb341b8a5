"""Prometheus gauges of the pools."""

from functools import partial

from prometheus_client import Gauge

from chassis.data.database import Database

_POOL = Gauge("database_pool_connections", "Connections to the database.", ("database", "bulkhead", "state"))
_WAITING = Gauge("database_pool_waiting", "Tasks that wait for a connection.", ("database", "bulkhead"))


def watch_pool(database: Database) -> None:
    """Reports a database's pools at every scrape: connections in use and idle, and tasks that wait for one."""
    for bulkhead, pool in database.bulkheads.pools.items():
        _POOL.labels(database.name, bulkhead, "idle").set_function(partial(getattr, pool, "idle"))
        _POOL.labels(database.name, bulkhead, "used").set_function(partial(getattr, pool, "lent"))
        _WAITING.labels(database.name, bulkhead).set_function(partial(getattr, pool, "waiting"))
