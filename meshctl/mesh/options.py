"""The options of `meshctl up`."""

from dataclasses import dataclass
from pathlib import Path

from meshctl.core.folder import DEFAULT_FOLDER

DEFAULT_PORT = 8080
# The environment variables that choose them.
VARIABLES = frozenset(
    f"PROTOMESH_{name}"
    for name in (
        *("DATA", "PORT", "WORKERS", "BACKGROUND_WORKERS", "SAMPLE_DATA"),
        *("POSTGRES_URL", "NATS_URL", "VALKEY_URL", "OBJECTS_URL"),
    )
)


@dataclass(frozen=True)
class Options:
    """The options of one mesh; an empty URL means the embedded part."""

    data: Path = DEFAULT_FOLDER
    port: int = DEFAULT_PORT
    workers: int = 1
    # Processes of each service with a database, separate from its servers; 0: background work runs in the servers.
    background_workers: int = 0
    sample_data: bool = True
    postgres_url: str = ""
    nats_url: str = ""
    valkey_url: str = ""
    objects_url: str = ""
