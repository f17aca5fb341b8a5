"""Creates and migrates a database and a role for each service.

Both are named `protomesh_<service>`, and the role's comment holds the id of the mesh that made them, so that a mesh
on a PostgreSQL that it shares with others touches nothing but its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from meshctl.core.failure import OperatorError

PREFIX = "protomesh_"


def name_of(service: str) -> str:
    """Returns the name of a service's database, which is also that of its role."""
    return PREFIX + service


def service_url(postgres_url: str, service: str, password: str) -> str:
    """Returns the URL of a service's own database on the same server, with its own role."""
    parts = urlsplit(postgres_url)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(netloc=f"{name_of(service)}:{quote(password)}@{server}", path=f"/{name_of(service)}")
    )


def create(postgres_url: str, passwords: Mapping[str, str], mesh_id: str, *, alone: bool = False) -> None:
    """Creates the role and the database of each service, or updates their passwords to `passwords`.

    A role owns its own database, may not connect to those of other services, and holds at most half of the server's
    connections. `alone` says that the server serves this mesh only: then the roles may connect to no other database at
    all. Raises OperatorError, with nothing altered, when a role or a database of these names is not of this mesh; and
    when the server cannot be reached or the URL's role may not create databases.
    """
    try:
        with psycopg.connect(postgres_url, autocommit=True, connect_timeout=5) as connection:
            if alone:
                connection.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
                _rename_earlier(connection, passwords, mesh_id)
            _require_ours(connection, [name_of(service) for service in passwords], mesh_id)
            for service, password in passwords.items():
                _create_role(connection, name_of(service), password, mesh_id)
                _create_database(connection, name_of(service))
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


def _mark(mesh_id: str) -> str:
    return f"Protomesh mesh {mesh_id}"


def _require_ours(connection: psycopg.Connection, names: Sequence[str], mesh_id: str) -> None:
    marks = "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = ANY(%s)"
    foreign = [f"role {name}" for name, mark in connection.execute(marks, [names]) if mark != _mark(mesh_id)]
    owners = "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname = ANY(%s)"
    foreign += [f"database {name}" for name, owner in connection.execute(owners, [names]) if owner != name]
    if foreign:
        raise OperatorError(
            f"The {foreign[0]} of this PostgreSQL was not made by this mesh: use another server, or the data folder "
            "(or the PROTOMESH_MESH_ID) of the mesh that made it."
        )


def _create_role(connection: psycopg.Connection, name: str, password: str, mesh_id: str) -> None:
    role = sql.Identifier(name)
    with connection.transaction():
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} NOCREATEDB NOCREATEROLE").format(role))
            _put_mark(connection, role, mesh_id)
        (connections,) = connection.execute("SHOW max_connections").fetchone() or ("100",)
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}")
        connection.execute(statement.format(role, sql.Literal(password), sql.Literal(int(connections) // 2)))


def _put_mark(connection: psycopg.Connection, role: sql.Identifier, mesh_id: str) -> None:
    connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(_mark(mesh_id))))


def _create_database(connection: psycopg.Connection, name: str) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
        return
    role = sql.Identifier(name)
    # Only a member of a role may create a database that the role owns, unless it is a superuser.
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))


def _rename_earlier(connection: psycopg.Connection, services: Iterable[str], mesh_id: str) -> None:
    """Gives roles and databases of earlier releases, which were named after the service alone, their names of today."""
    owned = "SELECT 1 FROM pg_database WHERE datname = %s AND pg_get_userbyid(datdba) = datname"
    for service in services:
        if not connection.execute(owned, [service]).fetchone():
            continue
        earlier, name = sql.Identifier(service), sql.Identifier(name_of(service))
        with connection.transaction():
            connection.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(earlier, name))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(earlier, name))
            _put_mark(connection, name, mesh_id)
