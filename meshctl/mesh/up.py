"""`meshctl up`: starts the mesh, prints how to use it, and keeps it running."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from meshctl.core import deployables
from meshctl.core.failure import OperatorError
from meshctl.core.files import write_private
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.mesh import control, housekeeping, logs, welcome
from meshctl.mesh.options import DEFAULT_PORT, Options, without_password
from meshctl.mesh.process import Say
from meshctl.mesh.progress import Progress, for_terminal
from meshctl.mesh.services import ADMIN_EMAIL
from meshctl.mesh.supervisor import Supervisor
from meshctl.pki import certificates

RENEWAL_SECONDS, LOG_CHECK_SECONDS = 3600.0, 10.0
# The last line from a mesh that continues in the background.
DETACHED = b"\x04\n"


def up(
    data: Annotated[
        # Whether it can be used is said in a sentence of ours.
        Path,
        typer.Option(
            envvar="PROTOMESH_DATA",
            show_default=".mesh",
            help="Data folder; it is kept between starts.",
            readable=False,
        ),
    ] = DEFAULT_FOLDER,
    port: Annotated[int, typer.Option(envvar="PROTOMESH_PORT", help="Port of the edge.")] = DEFAULT_PORT,
    workers: Annotated[
        int, typer.Option(envvar="PROTOMESH_WORKERS", min=1, max=16, help="Processes of each service.")
    ] = 1,
    background_workers: Annotated[
        int,
        typer.Option(
            envvar="PROTOMESH_BACKGROUND_WORKERS",
            min=0,
            max=4,
            help="Processes of each service that send and handle events apart from its servers; 0: the servers do it.",
        ),
    ] = 0,
    sample_data: Annotated[
        bool, typer.Option(envvar="PROTOMESH_SAMPLE_DATA", help="Load sample products, stock and accounts.")
    ] = True,
    postgres_url: Annotated[
        str,
        typer.Option(
            envvar="PROTOMESH_POSTGRES_URL",
            help="PostgreSQL to use instead of the embedded one.",
            callback=without_password,
        ),
    ] = "",
    nats_url: Annotated[
        str,
        typer.Option(
            envvar="PROTOMESH_NATS_URL", help="NATS with JetStream to use instead.", callback=without_password
        ),
    ] = "",
    valkey_url: Annotated[
        str,
        typer.Option(
            envvar="PROTOMESH_VALKEY_URL", help="Valkey or Redis to use instead.", callback=without_password
        ),
    ] = "",
    objects_url: Annotated[
        str,
        typer.Option(
            envvar="PROTOMESH_OBJECTS_URL",
            help="Object storage to use instead of a local folder.",
            callback=without_password,
        ),
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return once the mesh is healthy.")] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Start the whole mesh, and keep it running until Ctrl-C."""
    if detach:
        raise typer.Exit(_detached())
    options = Options(
        data, port, workers, background_workers, sample_data, postgres_url, nats_url, valkey_url, objects_url
    )
    try:
        asyncio.run(_live(options, background=background))
    except OSError as failure:
        raise _as_sentence(failure, options) from failure


def _detached() -> int:
    """Starts this command again in a separate session, and shows its output until the mesh is healthy."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    command = [sys.executable, "-P", "-m", "meshctl", *arguments, "--background"]
    with subprocess.Popen(
        command,
        env={**os.environ, **for_terminal()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        try:
            # As it comes: what is drawn on a terminal does not end with a line.
            while said := os.read(child.stdout.fileno(), 1 << 16):
                sys.stdout.buffer.write(said.removesuffix(DETACHED))
                sys.stdout.flush()
                if said.endswith(DETACHED):
                    # Skips the end of the block, which would wait for the child.
                    os._exit(0)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            return 130
        return child.wait() or 1


async def _live(options: Options, *, background: bool) -> None:
    progress = Progress()
    supervisor = Supervisor(options, progress)
    folder = supervisor.folder
    folder.prepare()
    stop = _on_signals()
    with folder.lock():
        async with control.serving(folder.control, _answering(supervisor, stop)):
            progress.say(f"Starting the mesh on {folder.root}")
            try:
                await _unless(stop, _bring_up(supervisor, progress))
                if background and not stop.is_set():
                    _leave_terminal(folder.logs / "mesh.log")
                await _unless(stop, _keep(supervisor, progress, background=background))
            finally:
                if stop.is_set():
                    progress.say("Draining: edge, services, parts")
                await supervisor.stop()
        if stop.is_set():
            progress.say("The mesh is down.")


async def _bring_up(supervisor: Supervisor, progress: Progress) -> None:
    folder, began = supervisor.folder, time.monotonic()
    password, known = folder.secrets().get("admin_password"), folder.dev_env.exists()
    with progress.drawn() as terminal:
        await supervisor.start()
        values = {"EDGE_URL": supervisor.edge_url, "ADMIN_EMAIL": ADMIN_EMAIL, "ADMIN_PASSWORD": password}
        write_private(folder.dev_env, "".join(f"{name}={value}\n" for name, value in values.items()))
        await supervisor.load_samples()
    summary = f"{supervisor.count} processes, ready in {time.monotonic() - began:.1f} s"
    screen = (supervisor.edge_url, folder, summary, "" if known else password)
    if terminal:
        terminal.show(welcome.text(*screen, paint=terminal.paint))
    else:
        progress.say(welcome.text(*screen))


async def _keep(supervisor: Supervisor, progress: Progress, *, background: bool) -> None:
    """Keeps the certificates valid and the supervisor's own log short, until it is cancelled."""
    folder = supervisor.folder

    def renew() -> None:
        """Renews certificates on time; services and Envoy read the files again when they change."""
        certificates.issue(folder.certificates, deployables.workloads())

    def shorten() -> None:
        if background:
            logs.shorten_output(folder.logs / "mesh.log")

    await asyncio.gather(
        housekeeping.repeatedly("The renewal of certificates", RENEWAL_SECONDS, renew, progress.say),
        housekeeping.repeatedly("The rotation of mesh.log", LOG_CHECK_SECONDS, shorten, progress.say),
    )


async def _unless(stop: asyncio.Event, work: Any) -> None:
    """Runs the work to its end, or until a stop is asked for."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            # Asked twice: the children die with this process.
            os._exit(130)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    # A terminal that closes asks for a drain, and sends this more than once. `nohup` ignores it, and so do we.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    return stop


def _answering(supervisor: Supervisor, stop: asyncio.Event) -> control.Answer:
    async def answer(request: dict[str, Any], say: Say) -> Any:
        match request:
            case {"command": "stop"}:
                stop.set()
                return "stopping"
            case {"command": "status"}:
                return await supervisor.status()
            case {"command": "wiring"}:
                return supervisor.wiring()
            case {"command": "restart", "service": str(service)}:
                return await supervisor.restart(service, say)
        raise OperatorError("The running mesh does not support this command: restart it with this version.")

    return answer


def _leave_terminal(log: Path) -> None:
    """Redirects this process to its log, and tells the process that started it that it may exit."""
    # That process may be gone already, with its terminal.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, DETACHED)
    logs.redirect_output(log)


def _as_sentence(failure: OSError, options: Options) -> OperatorError:
    if failure.errno == errno.ENOSPC:
        return OperatorError(
            f"The disk of {options.data.resolve()} is full: free some space, or choose --data."
        )
    if failure.errno in (errno.EACCES, errno.EPERM):
        return OperatorError(
            f"{failure.filename} is not writable by this user: choose another folder with --data."
        )
    return OperatorError(f"The system refused an operation: {failure}.")
