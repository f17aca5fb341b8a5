"""The options of `meshctl up`."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import typer

from meshctl.core.failure import OperatorError
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


def without_password(context: typer.Context, option: typer.CallbackParam, url: str) -> str:
    """Refuses a URL with a password that is an argument: other accounts of the machine see those."""
    given = context.get_parameter_source(str(option.name))
    if given is not None and given.name == "COMMANDLINE" and any(map(_has_secret, url.split(","))):
        raise OperatorError(
            "Everyone on this machine can read the arguments of a program: give the URL with its password as "
            f"{option.envvar}."
        )
    return url


def _has_secret(url: str) -> bool:
    parts = urlsplit(url)
    # The user of a NATS URL without a password is a token.
    return bool(parts.password or "password=" in parts.query or (parts.scheme == "nats" and parts.username))


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
