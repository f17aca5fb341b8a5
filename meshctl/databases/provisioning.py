"""Creates and migrates a database and a role for each service."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from meshctl.core.failure import OperatorError


def service_url(postgres_url: str, service: str, password: str) -> str:
    """Returns the URL of a service's own database on the same server, with its own role."""
    parts = urlsplit(postgres_url)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{service}:{quote(password)}@{server}", path=f"/{service}"))


def create(postgres_url: str, passwords: Mapping[str, str]) -> None:
    """Creates the role and the database of each service, or updates their passwords to `passwords`.

    A role owns its own database and may not connect to those of other services. Raises OperatorError when the
    server cannot be reached or the URL's role may not create databases.
    """
    try:
        with psycopg.connect(postgres_url, autocommit=True, connect_timeout=5) as connection:
            for service, password in passwords.items():
                _create_role(connection, service, password)
                _create_database(connection, service)
    except psycopg.errors.InsufficientPrivilege as refusal:
        raise OperatorError(
            f"PostgreSQL: the role of the URL may not create databases and roles: {refusal}"
        ) from None
    except psycopg.OperationalError as failure:
        raise OperatorError(f"PostgreSQL cannot be reached: {str(failure).splitlines()[0]}") from None


def migrate(postgres_url: str, passwords: Mapping[str, str]) -> None:
    """Migrates the database of each service to its newest revision.

    One after the other: alembic keeps the migration that runs in a global variable.
    """
    from chassis.data import upgrade

    for service, password in passwords.items():
        try:
            upgrade(service, service_url(postgres_url, service, password))
        except Exception as failure:
            raise OperatorError(f"The database of {service} could not be migrated: {failure}") from failure


def _create_role(connection: psycopg.Connection, service: str, password: str) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [service]).fetchone()
    verb = "ALTER" if known else "CREATE"
    statement = f"{verb} ROLE {{}} LOGIN NOCREATEDB NOCREATEROLE PASSWORD {{}}"
    connection.execute(sql.SQL(statement).format(sql.Identifier(service), sql.Literal(password)))


def _create_database(connection: psycopg.Connection, service: str) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [service]).fetchone():
        return
    name = sql.Identifier(service)
    # Only a member of a role may create a database that the role owns, unless it is a superuser.
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(name))
    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
