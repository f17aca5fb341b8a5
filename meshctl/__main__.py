"""`meshctl COMMAND`: builds and operates the mesh."""

import importlib
import sys
from typing import Annotated, Any, NamedTuple

import typer
from typer._click.exceptions import ClickException  # typer exports only its subclasses
from typer.core import TyperGroup

from meshctl import __version__
from meshctl.core.failure import OperatorError

# As a shell has it for a program that ended by Ctrl-C.
INTERRUPTED = 130


class Entry(NamedTuple):
    """A command: its panel in the help, module:function, and the first sentence of its own help."""

    panel: str
    function: str
    help: str


# Only the module of the called command is imported, which keeps each command, and the help, quick to start and the
# supervisor small. A new command is one line here.
COMMANDS = {
    "up": Entry("Mesh", "meshctl.mesh.up:up", "Start the whole mesh, and keep it running until Ctrl-C."),
    "down": Entry("Mesh", "meshctl.mesh.operate:down", "Drain and stop the mesh."),
    "status": Entry("Mesh", "meshctl.mesh.operate:status", "Show each process: health, port, memory, uptime."),
    "restart": Entry("Mesh", "meshctl.mesh.operate:restart", "Restart a service, one worker at a time."),
    "open": Entry("Mesh", "meshctl.mesh.operate:open_", "Print the URL of the edge, and open it in a browser."),
    "doctor": Entry("Mesh", "meshctl.inspect.doctor:doctor", "Check the machine and the mesh, and say what to do."),
    "dump": Entry("Data", "meshctl.mesh.backup:dump", "Write databases and objects to a file."),
    "restore": Entry("Data", "meshctl.mesh.backup:restore", "Read databases and objects from a file."),
    "probe": Entry("Mesh", "meshctl.mesh.probe:probe", "Check whether a service on this machine is serving."),
    "call": Entry("Inspect", "meshctl.inspect.call:call", "Call an RPC of the running mesh."),
    "trace": Entry("Inspect", "meshctl.inspect.trace:trace", "Draw a trace as a tree, or list recent ones."),
    "logs": Entry("Inspect", "meshctl.inspect.logs:logs", "Show the logs of all processes as one."),
    "top": Entry("Inspect", "meshctl.inspect.top:top", "Show each RPC: rate, errors, p50, p95, in flight."),
    "audit": Entry("Inspect", "meshctl.inspect.audit:audit", "Show who did what, the newest records first."),
    "events": Entry("Inspect", "meshctl.inspect.events:commands", "Handle dead letters, and refill streams."),
    "import": Entry("Data", "meshctl.mesh.tools:import_files", "Import files as the operator of the mesh."),
    "seed": Entry("Data", "meshctl.mesh.seed:seed", "Load the sample data."),
    "migrate": Entry("Data", "meshctl.databases.migrate:migrate", "Create and migrate all databases."),
    "reconcile": Entry("Data", "meshctl.mesh.tools:reconcile", "Compare the records of ordering and catalog."),
    "new": Entry("Build", "meshctl.build.new.commands:commands", "Add a service, resource, RPC, event or migration."),
    "gen": Entry("Build", "meshctl.build.gen.__main__:gen", "Derive gen/ and docs/reference/ from the contracts."),
    "certificates": Entry("Build", "meshctl.pki.issue:issue_certificates", "Issue or renew all certificates."),
}  # fmt: skip
# Commands that a service implements: it parses all of their options itself, `--help` too.
FORWARDED = {"import", "reconcile"}
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


class Commands(TyperGroup):
    """The commands of the table, of which the one that is called is imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(str(name)), rest


def load(name: str) -> Any:
    """Imports a command."""
    module, _, function = COMMANDS[name].function.partition(":")
    found = getattr(importlib.import_module(module), function)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False)
    if name in FORWARDED:
        app.command(name, context_settings=PASSED_ON, add_help_option=False)(found)
    else:
        app.command(name)(found)
    return typer.main.get_command(app)


def application() -> typer.Typer:
    """Returns the command line."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_meshctl)
    for name, entry in COMMANDS.items():
        app.command(name, help=entry.help, rich_help_panel=entry.panel)(lambda: None)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"meshctl {__version__}")
        raise typer.Exit


def _meshctl(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """Builds and operates the mesh. `meshctl COMMAND --help` explains a command."""


def main() -> None:
    try:
        code = application()(prog_name="meshctl", standalone_mode=False)
    except OperatorError as failure:
        _fail(str(failure), 1)
    except typer.Abort:
        code = INTERRUPTED
    except ClickException as failure:
        # Without a message, it asks for the help, which was printed.
        if message := failure.format_message():
            context = getattr(failure, "ctx", None)
            command = context.command_path if context else "meshctl"
            end = "" if message[-1] in ".?" else "."
            _fail(f"{message}{end} See `{command} --help`.", failure.exit_code)
        code = failure.exit_code
    if code == INTERRUPTED:
        _fail("Interrupted.", INTERRUPTED)
    sys.exit(code)


def _fail(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
