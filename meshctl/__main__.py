"""`python -m meshctl COMMAND`: builds and operates the mesh."""

import importlib
import sys

import typer

from meshctl.core.failure import OperatorError

# Command → module:function. Only the module of the called command is imported, which keeps each command
# quick to start and the supervisor small. A new command is one line here.
COMMANDS = {
    "up": "meshctl.mesh.up:up",
    "down": "meshctl.mesh.operate:down",
    "status": "meshctl.mesh.operate:status",
    "restart": "meshctl.mesh.operate:restart",
    "dump": "meshctl.mesh.backup:dump",
    "restore": "meshctl.mesh.backup:restore",
    "migrate": "meshctl.databases.migrate:migrate",
    "certificates": "meshctl.mesh.operate:issue_certificates",
    "seed": "meshctl.mesh.seed:seed",
    "probe": "meshctl.mesh.probe:probe",
    "call": "meshctl.inspect.call:call",
    "import": "meshctl.mesh.tools:import_files",
    "events": "meshctl.inspect.events:commands",
    "trace": "meshctl.inspect.trace:trace",
    "audit": "meshctl.inspect.audit:audit",
    "reconcile": "meshctl.mesh.tools:reconcile",
    "gen": "meshctl.build.gen.__main__:gen",
    "new": "meshctl.build.new.commands:commands",
}
# Commands that a service implements: it parses all of their options itself, `--help` too.
FORWARDED = {"import", "reconcile"}
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


def application(wanted: str) -> typer.Typer:
    """Returns the command line with the wanted command only, or with all of them for the help."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False
    )
    # With a callback, a single command keeps its name.
    app.callback()(lambda: None)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        module, _, function = COMMANDS[name].partition(":")
        found = getattr(importlib.import_module(module), function)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        elif name in FORWARDED:
            app.command(name, context_settings=PASSED_ON, add_help_option=False)(found)
        else:
            app.command(name)(found)
    return app


def main() -> None:
    try:
        application(sys.argv[1] if len(sys.argv) > 1 else "")(prog_name="meshctl")
    except OperatorError as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
