"""What a caller is told when something fails."""

import asyncio
import logging
from typing import Any

import grpc
import psycopg
import psycopg_pool
import pytest
import sqlalchemy.exc
import sqlalchemy.orm.exc

from chassis.core import errors
from chassis.rpc import failure

CODE = grpc.StatusCode
TABLE: list[tuple[BaseException, grpc.StatusCode]] = [
    (psycopg.errors.QueryCanceled("canceling statement"), CODE.DEADLINE_EXCEEDED),
    (psycopg.errors.SerializationFailure("secret"), CODE.ABORTED),
    (psycopg.errors.DeadlockDetected("secret"), CODE.ABORTED),
    (psycopg.errors.LockNotAvailable("secret"), CODE.ABORTED),
    (sqlalchemy.orm.exc.StaleDataError("secret"), CODE.ABORTED),
    (psycopg_pool.PoolTimeout("secret"), CODE.UNAVAILABLE),
    (psycopg.OperationalError("connection to server at secret"), CODE.UNAVAILABLE),
    (psycopg.errors.AdminShutdown("secret"), CODE.UNAVAILABLE),
    (TimeoutError("secret"), CODE.DEADLINE_EXCEEDED),
    (psycopg.errors.UniqueViolation("Key (email)=(secret)"), CODE.INTERNAL),
    (KeyError("secret"), CODE.INTERNAL),
]


@pytest.mark.parametrize(("error", "code"), TABLE, ids=[type(error).__name__ for error, _ in TABLE])
def test_a_foreign_exception_becomes_a_code_and_keeps_its_text_to_itself(
    error: BaseException, code: grpc.StatusCode
) -> None:
    answer = failure.from_exception(error)
    assert answer.code is code
    assert answer.reason
    assert "secret" not in str(answer.status())


def test_the_drivers_exception_counts_inside_sqlalchemys() -> None:
    wrapped = sqlalchemy.exc.OperationalError("SELECT secret", {}, psycopg.errors.QueryCanceled("x"))
    assert failure.from_exception(wrapped).code is CODE.DEADLINE_EXCEEDED


def test_every_canonical_code_of_a_failure_has_its_class() -> None:
    classes = {kind.code for kind in errors.MeshError.__subclasses__()}
    assert {CODE.OK, CODE.CANCELLED, CODE.UNKNOWN, CODE.OUT_OF_RANGE, CODE.DATA_LOSS} == set(CODE) - classes


def test_a_status_survives_the_way_there_and_back() -> None:
    error = errors.InvalidArgument(
        "VALIDATION_FAILED", "No.", metadata={"a": "b"}, violations=[("x", "is wrong")], retry_after=0.25
    )
    again = errors.from_status(error.status())
    assert type(again) is errors.InvalidArgument
    assert vars(again) == vars(error)


def failed(code: grpc.StatusCode, *, status: errors.MeshError | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata()
    if status is not None:
        trailing.add(errors.STATUS_DETAILS, status.status().SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "secret")


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (CODE.NOT_FOUND, CODE.INTERNAL),  # without a reason nobody knows what was not found
        (CODE.UNAVAILABLE, CODE.UNAVAILABLE),
        (CODE.RESOURCE_EXHAUSTED, CODE.UNAVAILABLE),
        (CODE.DEADLINE_EXCEEDED, CODE.DEADLINE_EXCEEDED),
        (CODE.PERMISSION_DENIED, CODE.INTERNAL),
        (CODE.UNKNOWN, CODE.INTERNAL),
    ],
)
def test_a_failed_dependency_says_nothing_about_itself(came: grpc.StatusCode, goes: grpc.StatusCode) -> None:
    answer = failure.from_exception(failed(came))
    assert answer.code is goes
    assert "secret" not in str(answer.status())


def test_a_refusal_that_a_dependency_explains_is_passed_on() -> None:
    error = failed(CODE.NOT_FOUND, status=errors.NotFound("PRODUCT_NOT_FOUND", "No such product."))
    assert errors.reason_of(error) == "PRODUCT_NOT_FOUND"
    assert failure.from_exception(error).reason == "PRODUCT_NOT_FOUND"


def test_an_error_without_a_reason_has_none() -> None:
    assert errors.reason_of(failed(CODE.UNKNOWN)) == ""
    assert errors.reason_of(ValueError()) == ""


def test_a_cancelled_task_is_no_failure_of_the_table(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    assert failure.from_exception(asyncio.CancelledError()).code is CODE.INTERNAL
