"""The pool's gauges, for Prometheus."""

from prometheus_client import Gauge

from chassis.data.database import Database

_POOL = Gauge("database_pool_connections", "Connections to the database.", ("database", "state"))
_WAITING = Gauge("database_pool_waiting", "Tasks that wait for a connection.", ("database",))


def watch_pool(database: Database) -> None:
    """Reports a database's pool at every scrape: connections in use and idle, and who waits for one."""
    stat = database.pool.stat
    _POOL.labels(database.name, "idle").set_function(lambda: stat("pool_available"))
    _POOL.labels(database.name, "used").set_function(lambda: stat("pool_size") - stat("pool_available"))
    _WAITING.labels(database.name).set_function(lambda: stat("requests_waiting"))
