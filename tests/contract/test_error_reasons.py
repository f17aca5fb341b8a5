"""Reasons in code and reasons in contracts are the same set."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chassis import contract
from chassis.core import errors
from meshctl.build.gen import reasons
from meshctl.build.gen.comments import Comments

ROOT = Path(__file__).resolve().parents[2]
RAISED = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.MeshError)
}


def documented() -> dict[str, set[str]]:
    """Reasons by package."""
    kinds = ((file.package, file.enum_types_by_name.get("ErrorReason")) for file in contract.files())
    return {package: {value.name for value in enum.values if value.number} for package, enum in kinds if enum}


def reasons_in(source: Path) -> Iterator[str]:
    """The first argument of every construction of an error, when it is a literal; of both sides of a choice."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and node.args and _name(node.func) in RAISED:
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def literals(directory: Path) -> set[str]:
    """Every text in the code below a directory."""
    nodes = (node for path in directory.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def raised(directory: Path) -> set[str]:
    return {reason for path in directory.rglob("*.py") for reason in reasons_in(path)}


def declared(deployable: str) -> set[str]:
    """The reasons that the RPCs of a service declare."""
    methods = (method for method in contract.platform() if method.deployable == deployable)
    return {reason for method in methods for reason in method.errors}


def test_no_two_domains_have_the_same_reason() -> None:
    times = Counter(reason for reasons in documented().values() for reason in reasons)
    assert [reason for reason, count in times.items() if count > 1] == []


def test_every_reason_of_a_call_says_with_which_code_it_comes(comments: Comments) -> None:
    found = reasons.all_reasons(contract.files(), comments)
    of_rows = {
        name for name, reason in found.items() if reason.comment.startswith("For a row of an import: ")
    }
    assert {name for name, reason in found.items() if not reason.code} == of_rows


def test_every_reason_of_a_domain_is_declared_by_an_rpc(comments: Comments) -> None:
    found = reasons.all_reasons(contract.files(), comments).values()
    own = {reason.name for reason in found if reason.code and reason.package != reasons.COMMON}
    assert own - {reason for method in contract.platform() for reason in method.errors} == set()


def test_every_reason_that_a_service_gives_is_declared_by_it_or_is_a_common_one() -> None:
    known, unknown = documented(), set()
    for service in (path for path in (ROOT / "services").iterdir() if path.is_dir()):
        own = known.get(f"protomesh.{service.name}.v1", set())
        allowed = known["protomesh.type.v1"] | own | declared(service.name)
        unknown |= {f"{service.name}: {reason}" for reason in raised(service) - allowed}
    assert unknown == set()


def test_every_reason_that_the_chassis_gives_is_in_the_common_contract() -> None:
    assert raised(ROOT / "chassis") - documented()["protomesh.type.v1"] == set()


def test_every_reason_of_a_domain_is_given_by_its_service() -> None:
    for package, known in documented().items():
        if package != "protomesh.type.v1":
            assert known - literals(ROOT / "services" / package.split(".")[1]) == set(), package


def test_every_common_reason_is_given_by_the_chassis_a_service_or_the_edge() -> None:
    given = literals(ROOT / "chassis") | literals(ROOT / "services")
    edge = (ROOT / "gen/envoy/edge.yaml").read_text()
    assert {reason for reason in documented()["protomesh.type.v1"] - given if reason not in edge} == set()
