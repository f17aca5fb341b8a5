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
        (CODE.ALREADY_EXISTS, CODE.INTERNAL),
        (CODE.UNAVAILABLE, CODE.UNAVAILABLE),
        (CODE.CANCELLED, CODE.UNAVAILABLE),
        (CODE.RESOURCE_EXHAUSTED, CODE.UNAVAILABLE),  # gRPC's own, such as too many streams
        (CODE.DEADLINE_EXCEEDED, CODE.DEADLINE_EXCEEDED),
        (CODE.PERMISSION_DENIED, CODE.INTERNAL),
        (CODE.UNAUTHENTICATED, CODE.INTERNAL),
        (CODE.UNIMPLEMENTED, CODE.INTERNAL),
        (CODE.UNKNOWN, CODE.INTERNAL),
    ],
)
def test_a_failed_dependency_says_nothing_about_itself(came: grpc.StatusCode, goes: grpc.StatusCode) -> None:
    answer = failure.from_exception(failed(came))
    assert answer.code is goes
    assert answer.reason
    assert "secret" not in str(answer.status())


@pytest.mark.parametrize(
    "said",
    [
        errors.NotFound("PRODUCT_NOT_FOUND", "No such product."),
        errors.AlreadyExists("SKU_TAKEN", "There is one.", metadata={"sku": "a"}),
        errors.InvalidArgument("VALIDATION_FAILED", "No.", violations=[("x", "is wrong")]),
        errors.FailedPrecondition("OUT_OF_STOCK", "Only 3 are left."),
        errors.Aborted("CONFLICT", "Again.", retry_after=0.1),
        errors.Unauthenticated("TOKEN_EXPIRED", "Sign in again."),
        errors.ResourceExhausted("RATE_LIMITED", "Too often.", violations=[("login", "5")], retry_after=12),
    ],
    ids=lambda said: said.reason,
)
def test_what_a_dependency_says_about_the_caller_is_passed_on(said: errors.MeshError) -> None:
    answer = failure.from_exception(failed(said.code, status=said))
    assert type(answer) is type(said)
    assert vars(answer) == vars(said)


@pytest.mark.parametrize(
    ("said", "goes"),
    [
        (errors.overloaded(), CODE.UNAVAILABLE),  # its own load is no quota of the caller's
        (errors.Unauthenticated("TOKEN_MISSING", "x"), CODE.INTERNAL),  # we sent none
        (errors.PermissionDenied("WORKLOAD_NOT_ALLOWED", "x"), CODE.INTERNAL),  # we may not, whoever asks
    ],
    ids=["overloaded", "no token", "not allowed"],
)
def test_what_a_dependency_says_about_us_is_not_passed_on(
    said: errors.MeshError, goes: grpc.StatusCode
) -> None:
    answer = failure.from_exception(failed(said.code, status=said))
    assert answer.code is goes
    assert answer.reason not in (said.reason, "")


def test_a_busy_dependency_still_says_when_to_come_again() -> None:
    answer = failure.from_exception(failed(CODE.RESOURCE_EXHAUSTED, status=errors.overloaded()))
    assert answer.retry_after == errors.overloaded().retry_after


def test_an_error_without_a_reason_has_none() -> None:
    assert errors.reason_of(failed(CODE.UNKNOWN)) == ""
    assert errors.reason_of(ValueError()) == ""


def test_a_cancelled_task_is_no_failure_of_the_table(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    assert failure.from_exception(asyncio.CancelledError()).code is CODE.INTERNAL
