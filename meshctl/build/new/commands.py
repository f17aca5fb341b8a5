"""The commands of `meshctl new`: each writes its files, and generates what is derived from the contract."""

import subprocess
import sys
from typing import Annotated

import typer

from meshctl.build.new import names, parts
from meshctl.build.new.names import Names
from meshctl.build.new.tree import Tree
from meshctl.core.failure import OperatorError

commands = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Add a service, resource, RPC, event or migration."
)

Service = Annotated[str, typer.Argument(help="The service, such as `notes`.")]


@commands.command()
def service(
    name: Annotated[str, typer.Argument(help="One word in lower case, such as `notes`.")],
    resource: Annotated[
        str, typer.Option(help="The first resource; by default, the singular of the name.")
    ] = "",
) -> None:
    """Add a service with a first resource: contract, code, migration, tests, a page of docs and a container."""
    names.check_domain(name)
    tree = Tree()
    named = Names(name, names.check_noun(resource or names.singular_of(name)))
    parts.add_service(tree, named)
    parts.add_resource(tree, named)
    _finish(tree, contracts=True)


@commands.command()
def resource(
    service: Service, name: Annotated[str, typer.Argument(help="A noun in lower case, such as `note`.")]
) -> None:
    """Add a resource to a service: contract, model, servicer, migration and tests."""
    tree = Tree()
    _check_service(tree, service)
    named = Names(service, names.check_noun(name))
    parts.add_resource(tree, named)
    parts.serve(tree, named)
    _finish(tree, contracts=True)


@commands.command()
def rpc(
    service: Service, name: Annotated[str, typer.Argument(help="Verb and resource, such as `ArchiveNote`.")]
) -> None:
    """Add an RPC that changes a resource: to the contract, and to the servicer, without its business step."""
    tree = Tree()
    _check_service(tree, service)
    names.check_pascal(name, "ArchiveNote")
    named = parts.resource_of(tree, service, name, "an RPC is named by a verb and a resource")
    parts.add_rpc(tree, named, name)
    _finish(tree, contracts=True)


@commands.command()
def event(
    service: Service, name: Annotated[str, typer.Argument(help="What happened, such as `NoteShared`.")]
) -> None:
    """Add an event that a service publishes about a resource, to the contract."""
    tree = Tree()
    _check_service(tree, service)
    names.check_pascal(name, "NoteShared")
    named = parts.resource_of(tree, service, name, "an event is named by a resource and what happened to it")
    parts.add_event(tree, named, name)
    _finish(tree, contracts=True)


@commands.command()
def migration(
    service: Service, name: Annotated[str, typer.Argument(help="What it does, such as `add_colour`.")]
) -> None:
    """Add the next revision of a service's database."""
    tree = Tree()
    _check_service(tree, service)
    slug = names.check_slug(name)
    parts.add_migration(tree, service, slug, "migration.py", {"title": slug.replace("_", " ").capitalize()})
    _finish(tree, contracts=False)


def _check_service(tree: Tree, name: str) -> None:
    # Text that is not a name must not become a path.
    if not name.isidentifier() or not tree.has(f"services/{name}/__main__.py"):
        raise OperatorError(f"There is no service {name!r}: create it with `meshctl new service`.")


def _finish(tree: Tree, *, contracts: bool) -> None:
    for path in tree.write():
        typer.echo(f"wrote: {path}")
    if contracts:
        subprocess.run([sys.executable, "-m", "meshctl.build.gen"], cwd=tree.root, check=True)
