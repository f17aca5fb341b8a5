"""The files that each part of a service consists of."""

import re
from pathlib import Path

from meshctl.build.new.names import Names, pascal, plural_of, snake
from meshctl.build.new.tree import Tree, render
from meshctl.core.failure import OperatorError

_CLIENTS = {
    "sdk/python/src/protomesh_sdk/mesh.py": "channel",
    "sdk/python/src/protomesh_sdk/aio.py": "self._channel",
}
_NUMBER = re.compile(r"(\d{4})_\w+\.py")
_REASON = re.compile(r"^  [A-Z_]+ = (\d+);", re.MULTILINE)
_PATHS = re.compile(r'(?:get|put|post|delete|patch): "(/v1/[^"/{:]+)')


def add_service(tree: Tree, names: Names) -> None:
    """Adds a deployable that serves its first resource, which `add_resource` writes."""
    domain, values = names.domain, names.values()
    proto = f"proto/protomesh/{domain}"
    for folder in (proto, f"services/{domain}"):
        if tree.has(folder):
            raise OperatorError(f"{folder} already exists: choose another name for the service.")
    tree.create(f"services/{domain}/__init__.py", "init.py", values)
    tree.create(f"services/{domain}/__main__.py", "main.py", values)
    tree.create(f"services/{domain}/model.py", "model.py", values)
    tree.create(f"{proto}/v1/error_reason.proto", "error_reason.proto", values)
    tree.create(f"{proto}/v1/{domain}_events.proto", "events.proto", values)
    tree.create(f"docs/services/{domain}.md", "docs.md", values)
    compose = "docker-compose.yml"
    tree.insert(compose, "  observer:\n", render("compose.yml", values))
    variable = f"NATS_PASSWORD_{domain.upper()}"
    tree.insert(
        compose,
        "      NATS_PASSWORD_OBSERVER",
        f"      {variable}: ${{{variable}:-development}}\n",
        after="  nats:\n",
    )
    healthy = f"      {domain}: {{condition: service_healthy}}\n"
    tree.insert(compose, "      ratelimit: {condition", healthy, after="  edge:\n")


def add_resource(tree: Tree, names: Names) -> None:
    """Adds a resource that only its owner can see: its contract, its table, its servicer and its tests."""
    domain, noun, values = names.domain, names.noun, names.values()
    proto, service = f"proto/protomesh/{domain}/v1", f"services/{domain}"
    _check_path(tree, names)
    tree.create(f"{proto}/{noun}.proto", "resource.proto", values)
    tree.create(f"{proto}/{noun}_service.proto", "service.proto", values)
    _add_reason(tree, f"{proto}/error_reason.proto", values)
    events = f"{proto}/{domain}_events.proto"
    tree.insert(
        events,
        'import "protomesh/options/v1/options.proto";',
        f'import "protomesh/{domain}/v1/{noun}.proto";\n',
    )
    tree.append(events, "resource_events.proto", values)
    tree.import_in(f"{service}/model.py", "from chassis.data import Resource")
    tree.append(f"{service}/model.py", "model_class.py", values)
    tree.create(f"{service}/{noun}_service.py", "servicer.py", values)
    add_migration(tree, domain, names.plural, "resource_migration.py", values)
    _offer(tree, names)
    tree.create(f"tests/service/{domain}/test_{names.plural}.py", "test.py", values)


def _offer(tree: Tree, names: Names) -> None:
    """Adds the resource's service to both clients of the SDK, under the name of its collection."""
    stub = f"{names.message}ServiceStub"
    line = f"from protomesh.{names.domain}.v1.{names.noun}_service_pb2_grpc import {stub}"
    for path, channel in _CLIENTS.items():
        if f"self.{names.plural} = " in tree.read(path):
            raise OperatorError(f"{path} already has {names.plural!r}: choose another name for the resource.")
        last = f"        self.observer = ObserverServiceStub({channel})\n"
        tree.insert(path, last, f"        self.{names.plural} = {stub}({channel})\n")
        tree.import_in(path, line)


def _check_path(tree: Tree, names: Names) -> None:
    path = f"/v1/{names.plural}"
    for contract in sorted((tree.root / "proto/protomesh").rglob("*_service.proto")):
        if path in _PATHS.findall(contract.read_text()):
            raise OperatorError(f"{path} is taken by {contract.name}: choose another name for the resource.")


def _add_reason(tree: Tree, path: str, values: dict[str, str]) -> None:
    number = max((int(found) for found in _REASON.findall(tree.read(path))), default=0) + 1
    text = "  // NOT_FOUND: the {noun_text} does not exist, or belongs to another user. Metadata: none.\n"
    reason = f"  {values['NOUN']}_NOT_FOUND = {number};\n"
    tree.insert(path, "}\n", text.format(**values) + reason, after="enum ErrorReason")


def serve(tree: Tree, names: Names) -> None:
    """Makes an existing service serve another resource."""
    main, servicer = f"services/{names.domain}/__main__.py", f"{names.message}Service"
    tree.import_in(main, f"from services.{names.domain}.{names.noun}_service import {servicer}")
    served = f'"protomesh.{names.domain}.v1.{servicer}"'
    tree.extend(main, "compose", f"    service.serve({served}, {servicer}(service.database))\n")


def add_migration(tree: Tree, domain: str, slug: str, template: str, values: dict[str, str]) -> str:
    """Adds the next revision of a service; returns its path."""
    folder = f"services/{domain}/migrations"
    numbers = [int(found[1]) for found in map(_NUMBER.fullmatch, _names_in(tree.root / folder)) if found]
    before = max(numbers, default=0)
    path = f"{folder}/{before + 1:04}_{slug}.py"
    revisions = {"revision": f"{before + 1:04}", "down_revision": f'"{before:04}"' if before else "None"}
    tree.create(path, template, {**values, **revisions})
    return path


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def resource_of(tree: Tree, domain: str, name: str, example: str) -> Names:
    """Returns the resource with which the name of an RPC ends, or that of an event begins."""
    services = tree.root / f"proto/protomesh/{domain}/v1"
    nouns = sorted(
        (path.name.removesuffix("_service.proto") for path in services.glob("*_service.proto")), key=len
    )
    for noun in reversed(nouns):
        if name != pascal(noun) and (name.endswith(pascal(noun)) or name.startswith(pascal(noun))):
            return Names(domain, noun)
    known = ", ".join(pascal(noun) for noun in nouns) or "no resource"
    raise OperatorError(f"{name!r} does not name a resource of {domain}, which has {known}: {example}.")


def add_rpc(tree: Tree, names: Names, rpc: str) -> None:
    """Adds an RPC that changes a resource in another way than `Update` does, and its event."""
    verb = snake(rpc.removesuffix(names.message))
    contract = f"proto/protomesh/{names.domain}/v1/{names.noun}_service.proto"
    servicer = f"services/{names.domain}/{names.noun}_service.py"
    if "_" in verb or not rpc.endswith(names.message):
        raise OperatorError(
            f"{rpc!r} is not a verb followed by a resource, such as `Archive{names.message}`."
        )
    if re.search(rf"\brpc {rpc}\(", tree.read(contract)):
        raise OperatorError(f"{contract} already has {rpc}.")
    code = tree.read(servicer)
    if "_OWN = Scoped(" not in code or "_message = Mapper(" not in code:
        raise OperatorError(
            f"{servicer} is not laid out as expected: write {rpc} by hand, as docs/add-an-rpc.md describes."
        )
    event = names.message + pascal(participle(verb))
    values = {**names.values(), "Rpc": rpc, "Event": event, "verb": verb, "Verb_text": third_person(verb)}
    tree.insert(contract, "\n}\n", "\n" + render("rpc.proto", values).rstrip("\n"), after="\nservice ")
    tree.append(contract, "rpc_request.proto", values)
    tree.extend(servicer, f"{names.message}Service", render("rpc.py", values))
    package = f"protomesh.{names.domain}.v1"
    tree.import_in(servicer, f"from {package}.{names.noun}_service_pb2 import {rpc}Request")
    tree.import_in(servicer, f"from {package}.{names.domain}_events_pb2 import {event}")
    if not _has_event(tree, names, event):
        add_event(tree, names, event)


def third_person(verb: str) -> str:
    """Returns the verb that begins an RPC's comment: `Archives` for `archive`."""
    return plural_of(verb).capitalize()


def participle(verb: str) -> str:
    """Returns the verb that ends an event's name: `archived` for `archive`."""
    return f"{verb}d" if verb.endswith("e") else f"{verb}ed"


def _events(names: Names) -> str:
    return f"proto/protomesh/{names.domain}/v1/{names.domain}_events.proto"


def _has_event(tree: Tree, names: Names, event: str) -> bool:
    return re.search(rf"^message {event} ", tree.read(_events(names)), re.MULTILINE) is not None


def add_event(tree: Tree, names: Names, event: str) -> None:
    """Adds an event about a resource."""
    verb = snake(event.removeprefix(names.message))
    if _has_event(tree, names, event):
        raise OperatorError(f"{_events(names)} already has {event}.")
    values = {**names.values(), "Event": event, "verb": verb, "verb_text": verb.replace("_", " ")}
    tree.append(_events(names), "event.proto", values)
