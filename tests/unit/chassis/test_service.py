"""A service's life: health, reflection, metrics, start-up refusals, drain."""

import asyncio
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from chassis.core import Settings
from chassis.data import bulkheads
from chassis.service import Service
from tests.patience import eventually
from tests.unit.chassis.stand import SERVICE, Keys, Scratch, Stand, Thing, method, running

ROOT = pathlib.Path(__file__).parents[3]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/gen/python"]
from tests.unit.chassis.stand import SERVICE, Keys, Scratch
from chassis.service import run

async def compose(service):
    {compose}
    service.token_keys = Keys()
    service.serve(SERVICE, Scratch())

run("scratch", compose)
"""


def environment(directory: pathlib.Path, **settings: object) -> dict[str, str]:
    values = {"port": 0, "metrics_port": 0, "tls_directory": directory, "drain_wait_seconds": 0.2} | settings
    return os.environ | {f"PROTOMESH_{name.upper()}": str(value) for name, value in values.items()}


def program(compose: str = "pass") -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(root=str(ROOT), compose=compose)]


def refusal(directory: pathlib.Path, compose: str = "pass", **settings: object) -> str:
    """What a service says that cannot start."""
    ended = subprocess.run(
        program(compose),
        env=environment(directory, **settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().splitlines()[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_health_is_told_for_the_server_and_for_each_service(stand: Stand) -> None:
    health: Any = health_pb2_grpc.HealthStub(stand.plain())
    for name in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING


async def test_a_draining_server_says_so_and_finishes_what_runs(certificate_directory: pathlib.Path) -> None:
    async with running(certificate_directory, drain_wait_seconds=0.3) as stand:
        health: Any = health_pb2_grpc.HealthStub(stand.plain())
        watch = aiter(health.Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(watch)).status == SERVING
        stream = aiter(method(stand.plain("ordering"), "Chat")(_slowly()))
        assert (await anext(stream)).text == "A"
        stand.stop.set()
        assert (await anext(watch)).status == NOT_SERVING
        assert (await anext(stream)).text == "B"


async def _slowly() -> Any:
    yield Thing(text="a")
    await asyncio.sleep(0.5)
    yield Thing(text="b")


async def test_reflection_tells_the_mesh_what_is_served(stand: Stand) -> None:
    channel: Any = stand.plain()
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answer = await anext(aiter(reflection.ServerReflectionInfo(ask())))
    assert SERVICE in {service.name for service in answer.list_services_response.service}


async def test_a_worker_draws_on_the_connections_for_background_work(
    certificate_directory: pathlib.Path,
) -> None:
    drawn: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        drawn.set_result(bulkheads.current.get())
        await asyncio.Event().wait()

    async with running(certificate_directory, workers=(work,)):
        assert await drawn == "background"
    assert bulkheads.current.get() == "calls"


async def test_a_worker_that_fails_ends_the_service(certificate_directory: pathlib.Path) -> None:
    async def fail() -> None:
        raise RuntimeError("the worker is broken")

    with pytest.raises(RuntimeError, match="the worker is broken"):
        async with running(certificate_directory, workers=(fail,)) as stand:
            await asyncio.wait_for(stand.ended.wait(), 5)


async def test_a_server_whose_worker_fails_drains_all_the_same(certificate_directory: pathlib.Path) -> None:
    broken = asyncio.Event()

    async def fail() -> None:
        await broken.wait()
        raise RuntimeError("the worker is broken")

    with pytest.raises(RuntimeError, match="the worker is broken"):  # noqa: PT012 (what fails is the block's end)
        async with running(certificate_directory, workers=(fail,), drain_wait_seconds=0.3) as stand:
            health: Any = health_pb2_grpc.HealthStub(stand.plain())
            watch = aiter(health.Watch(health_pb2.HealthCheckRequest()))
            assert (await anext(watch)).status == SERVING
            stream = aiter(method(stand.plain("ordering"), "Chat")(_slowly()))
            assert (await anext(stream)).text == "A"
            broken.set()
            assert (await anext(watch)).status == NOT_SERVING
            assert (await anext(stream)).text == "B"


async def test_a_service_that_is_stopped_while_it_waits_for_its_database_never_says_that_it_serves(
    certificate_directory: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        service="scratch",
        port=0,
        tls_directory=certificate_directory,
        database_url=f"postgresql://127.0.0.1:{free_port()}/none",
    )
    service, stop, served = Service(settings), asyncio.Event(), list[int]()
    assert service.database
    with caplog.at_level("INFO", "chassis.service"):
        task = asyncio.ensure_future(service.run(stop, served.append))
        await eventually(lambda: "Waiting for the database" in caplog.text)
        stop.set()
        await asyncio.wait_for(task, 10)
    assert not served
    assert "Serving" not in caplog.text


@pytest.mark.parametrize(
    ("role", "runs", "code"),
    [
        ("all", {"background", "beside server"}, None),
        ("server", {"beside server"}, None),
        ("worker", {"background"}, grpc.StatusCode.UNIMPLEMENTED),
    ],
)
async def test_a_process_does_what_its_role_says(
    certificate_directory: pathlib.Path, role: Any, runs: set[str], code: grpc.StatusCode | None
) -> None:
    settings = Settings(service="scratch", port=0, tls_directory=certificate_directory, role=role)
    service, ran = Service(settings), set[str]()
    service.token_keys = Keys()
    service.serve(SERVICE, Scratch())

    def working(name: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            ran.add(name)

        return work

    service.background(working("background"))
    service.beside_server(working("beside server"))
    async with live(service) as port:
        stand = Stand(certificate_directory, port)
        health: Any = health_pb2_grpc.HealthStub(stand.plain())
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        call = method(stand.plain(), "Open")(Thing(text="x"))
        if code is None:
            assert (await call).text == "x"
        else:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is code
        await stand.close()
    assert ran == runs


@asynccontextmanager
async def live(service: Service) -> AsyncIterator[int]:
    """The service at its port, until the block ends."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.ensure_future(service.run(stop, port.set_result))
    try:
        yield await asyncio.wait_for(port, 10)
    finally:
        stop.set()
        await task


def test_an_entry_point_takes_the_role_of_its_process(certificate_directory: pathlib.Path) -> None:
    ended = subprocess.run(
        [*program(), "--role", "nothing"],
        env=environment(certificate_directory),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "invalid choice: 'nothing' (choose from 'all', 'server', 'worker')" in ended.stderr


SUBSCRIBES = """
    from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
    service.subscribe("catalog.release_stock", {OrderCancelled: None})
"""


def test_a_subscription_without_a_broker_or_a_database_does_not_start(
    certificate_directory: pathlib.Path,
) -> None:
    nowhere = {"database_url": "postgresql://127.0.0.1:1/none", "nats_url": "nats://127.0.0.1:1"}
    text = refusal(certificate_directory, SUBSCRIBES, database_url=nowhere["database_url"])
    assert text == "scratch cannot start: scratch subscribes to events: set PROTOMESH_NATS_URL."
    text = refusal(certificate_directory, SUBSCRIBES, nats_url=nowhere["nats_url"])
    assert text == "scratch cannot start: scratch needs a database: set PROTOMESH_DATABASE_URL."


async def test_a_process_serves_reports_metrics_and_drains_on_sigterm(
    certificate_directory: pathlib.Path,
) -> None:
    port, metrics_port = free_port(), free_port()
    values = environment(certificate_directory, port=port, metrics_port=metrics_port)
    process = await asyncio.create_subprocess_exec(*program(), env=values, stderr=asyncio.subprocess.PIPE)
    try:
        stand = Stand(certificate_directory, port)
        answer = await method(stand.plain(), "Open")(Thing(text="x"), wait_for_ready=True, timeout=20)
        assert answer.text == "x"
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
        labels = f'grpc_method="Open",grpc_service="{SERVICE}"'
        assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0' in text
        assert f"grpc_server_handling_seconds_count{{{labels}}} 1.0" in text
        assert f"grpc_server_in_flight{{{labels}}} 0.0" in text
        await stand.close()
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert time.monotonic() - begin >= 0.2
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_taken_port_is_said_in_one_sentence(certificate_directory: pathlib.Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Cannot listen on 127.0.0.1:{port}: the port is taken" in refusal(
            certificate_directory, port=port
        )
        text = refusal(certificate_directory, metrics_port=port)
        assert text == f"scratch cannot start: the metrics port {port} is taken."


def test_missing_certificates_are_said_in_one_sentence(tmp_path: pathlib.Path) -> None:
    assert (
        refusal(tmp_path)
        == f"scratch cannot start: {tmp_path}/ca.pem cannot be read: No such file or directory."
    )


def test_certificates_that_do_not_fit_are_said_in_one_sentence(
    tmp_path: pathlib.Path, certificate_directory: pathlib.Path
) -> None:
    for name, source in (("ca.pem", "ca.pem"), ("scratch.pem", "scratch.pem"), ("scratch.key", "edge.key")):
        (tmp_path / name).write_bytes((certificate_directory / source).read_bytes())
    assert "scratch.key is not the key of" in refusal(tmp_path)


def test_a_setting_that_is_no_good_is_named(certificate_directory: pathlib.Path) -> None:
    assert "PROTOMESH_PORT is not valid" in refusal(certificate_directory, port="many")


def test_a_broker_that_cannot_be_is_said_in_one_sentence(certificate_directory: pathlib.Path) -> None:
    text = refusal(certificate_directory, nats_url="nats://127.0.0.1:none")
    assert text.startswith(
        "scratch cannot start: PROTOMESH_NATS_URL: this is not a list of NATS URLs, such as "
    )


def test_a_missing_database_is_said_in_one_sentence(certificate_directory: pathlib.Path) -> None:
    text = refusal(certificate_directory, compose="service.database")
    assert text == "scratch cannot start: scratch needs a database: set PROTOMESH_DATABASE_URL."


def test_an_unserved_contract_is_said_in_one_sentence(certificate_directory: pathlib.Path) -> None:
    text = refusal(certificate_directory, compose="service.serve('no.such.Service', object())")
    assert text == "scratch cannot start: No contract defines the service no.such.Service."


async def test_no_method_is_registered_one_by_one(
    certificate_directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc.aio waits on each registered method anew for every call."""
    registered: list[str] = []
    monkeypatch.setattr(
        grpc.aio.Server, "add_registered_method_handlers", lambda _, name, __: registered.append(name)
    )
    async with running(certificate_directory) as stand:
        assert (await method(stand.channel(), "Open")(Thing(text="x"))).text == "x"
    assert registered == []


async def test_without_certificates_no_workload_is_known() -> None:
    async with running(None) as stand:
        channel = stand.channel(tls_directory=None)
        assert (await method(channel, "Open")(Thing(text="x"))).text == "x"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(channel, "Anybody")(Thing())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
