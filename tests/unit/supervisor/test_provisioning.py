"""Databases on a server that others use too: a mesh touches nothing but its own."""

import secrets

import psycopg
import pytest

from meshctl.core.failure import OperatorError
from meshctl.databases import provisioning
from meshctl.databases.provisioning import name_of, service_url


def passwords() -> dict[str, str]:
    return {f"shop{secrets.token_hex(4)}": secrets.token_hex(8) for _ in range(2)}


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_a_service_reaches_its_own_database_only_and_has_a_share_of_the_connections(
    postgres_url: str,
) -> None:
    known = passwords()
    provisioning.create(postgres_url, known, "ours")
    (one, password), (other, _) = known.items()
    url = service_url(postgres_url, one, password)
    assert run(url, "SELECT current_user, current_database()") == [(name_of(one), name_of(one))]
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        run(url.rpartition("/")[0] + f"/{name_of(other)}", "SELECT 1")
    limits = f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{name_of(one)}'"
    assert run(postgres_url, limits) == [(250,)]


def test_a_role_that_somebody_else_made_is_left_as_it_is(postgres_url: str) -> None:
    known = passwords()
    first, second = known
    run(postgres_url, f"CREATE ROLE {name_of(second)} LOGIN PASSWORD 'theirs'")
    with pytest.raises(
        OperatorError, match=rf"^The role {name_of(second)} of this PostgreSQL was not made by"
    ):
        provisioning.create(postgres_url, known, "ours")
    run(service_url(postgres_url, second, "theirs").rpartition("/")[0] + "/postgres", "SELECT 1")
    assert not run(postgres_url, f"SELECT 1 FROM pg_roles WHERE rolname = '{name_of(first)}'")


def test_a_mesh_does_not_take_over_what_another_one_made(postgres_url: str) -> None:
    known = passwords()
    provisioning.create(postgres_url, known, "theirs")
    with pytest.raises(OperatorError, match="was not made by this mesh"):
        provisioning.create(postgres_url, dict.fromkeys(known, "stolen"), "ours")
    for service, password in known.items():
        run(service_url(postgres_url, service, password), "SELECT 1")


def test_a_database_of_somebody_else_is_not_used(postgres_url: str) -> None:
    known = passwords()
    name = name_of(next(iter(known)))
    run(postgres_url, f"CREATE DATABASE {name}")
    with pytest.raises(OperatorError, match=rf"^The database {name} of this PostgreSQL was not made by"):
        provisioning.create(postgres_url, known, "ours")


def test_a_role_that_only_creates_databases_and_roles_is_enough(postgres_url: str) -> None:
    known, creator = passwords(), f"creator{secrets.token_hex(4)}"
    run(postgres_url, f"CREATE ROLE {creator} LOGIN CREATEDB CREATEROLE PASSWORD 'creates'")
    url = postgres_url.replace(postgres_url.partition("//")[2].partition("@")[0], f"{creator}:creates")
    for _ in range(2):
        provisioning.create(url, known, "ours")


def test_databases_of_an_earlier_release_keep_their_data(postgres_url: str) -> None:
    known = passwords()
    service, password = next(iter(known.items()))
    run(postgres_url, f"CREATE ROLE {service} LOGIN PASSWORD 'earlier'")
    run(postgres_url, f"CREATE DATABASE {service} OWNER {service}")
    earlier = postgres_url.rpartition("/")[0] + f"/{service}"
    run(earlier, f"CREATE TABLE goods AS SELECT 7 AS id; ALTER TABLE goods OWNER TO {service}")
    for _ in range(2):
        provisioning.create(postgres_url, known, "ours", alone=True)
    url = service_url(postgres_url, service, password)
    assert run(url, "SELECT id FROM goods") == [(7,)]
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        run(url.rpartition("/")[0] + "/postgres", "SELECT 1")
    run(postgres_url, "GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC")
