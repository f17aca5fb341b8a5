"""Logs: lines that a machine reads, and that hold nothing that nobody should read."""

import io
import json
import logging
from typing import Any

import pytest
from protomesh.identity.v1.identity_events_pb2 import UserUpdated
from protomesh.identity.v1.user_pb2 import Account

from chassis.observe import logs, tracing
from tests.unit.chassis.stand import Spans, Thing


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> logging.Logger:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("scratch"))
    logger = logging.getLogger("test")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers.clear()
    logger.addHandler(handler)
    return logger


def line(stream: io.StringIO) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return found


def test_a_record_is_one_line_of_json(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.warning("%d left\nof %s", 2, "three", extra={"method": "Open"})
    assert stream.getvalue().count("\n") == 1
    assert line(stream) | {"time": ""} == {
        "time": "",
        "level": "warning",
        "service": "scratch",
        "logger": "test",
        "message": "2 left\nof three",
        "method": "Open",
    }


def test_a_record_names_its_trace(logger: logging.Logger, stream: io.StringIO, spans: Spans) -> None:
    with tracing.span("work"):
        logger.info("here")
        assert line(stream)["trace_id"] == tracing.trace_id()


def test_a_library_that_tells_much_is_only_heard_when_something_is_wrong() -> None:
    loggers = [logging.getLogger(name) for name in (None, "grpc", "nats", "httpx", "asyncio")]
    before, handlers = [found.level for found in loggers], logging.root.handlers[:]
    try:
        logs.set_up("scratch", "debug")
        assert logging.getLogger("chassis").isEnabledFor(logging.DEBUG)
        for name in ("grpc", "nats", "httpx", "asyncio"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
            assert logging.getLogger(name).isEnabledFor(logging.WARNING)
    finally:
        logging.root.handlers[:] = handlers
        for found, level in zip(loggers, before, strict=True):
            found.setLevel(level)


def test_an_exception_comes_along(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        raise ValueError("wrong at postgresql://mesh:hunter2@db/x")
    except ValueError:
        logger.exception("failed")
    assert "ValueError" in line(stream)["exception"]
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    "secret",
    [
        "nats://user:hunter2@broker:4222",
        "Authorization: Bearer hunter2hunter2",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.hunter2",
    ],
)
def test_secrets_in_a_text_are_redacted(logger: logging.Logger, stream: io.StringIO, secret: str) -> None:
    logger.info("with %s in it", secret)
    assert "hunter2" not in stream.getvalue()
    assert logs.REDACTED in line(stream)["message"]


@pytest.mark.parametrize("name", ["password", "access_token", "cursor_secret", "Authorization", "api_key"])
def test_fields_that_are_called_secret_are_redacted(
    logger: logging.Logger, stream: io.StringIO, name: str
) -> None:
    logger.info("x", extra={name: "hunter2", "inner": {name: ["hunter2"]}})
    assert "hunter2" not in stream.getvalue()


def test_personal_data_never_shows(logger: logging.Logger, stream: io.StringIO) -> None:
    thing = Thing(text="seen", email="a@example.com", pin="1234", parts=[{"email": "b@example.com"}])
    logger.info("a %s", thing, extra={"thing": thing})
    assert "example.com" not in stream.getvalue()
    assert "1234" not in stream.getvalue()
    assert "seen" in line(stream)["message"]
    assert line(stream)["thing"]["parts"] == [{"email": logs.REDACTED}]


def test_personal_data_in_a_message_within_a_message_never_shows() -> None:
    event = UserUpdated(user_id="u1", account=Account(id="u1", email="a@example.com"))
    assert logs.redacted(event) == {"user_id": "u1", "account": {"id": "u1", "email": logs.REDACTED}}


def test_headers_that_are_not_text_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("handlers", "level"):
        monkeypatch.setattr(logging.root, name, getattr(logging.root, name))
    logs.set_up("scratch", "info")
    handler = Kept()
    logging.root.handlers = [handler]
    grpc = logging.getLogger("grpc._cython.cygrpc")
    grpc.error("Invalid encoding on %s", b"\xff")
    grpc.error("Something else")
    assert handler.messages == ["Something else"]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
