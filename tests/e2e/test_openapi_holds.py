"""What the edge answers is what the OpenAPI document says."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from chassis import contract
from chassis.contract import HttpBinding, MethodContract
from tests.mesh import Mesh

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "gen/openapi/protomesh.yaml").read_text())
READS = [
    (method, binding)
    for method in contract.platform()
    for binding in method.http
    if binding.verb == "GET" and "{" not in binding.path and not method.server_streaming
]

each_read = pytest.mark.parametrize(
    ("method", "binding"), READS, ids=lambda each: each.path if isinstance(each, HttpBinding) else ""
)


def check(answer: Any, operation: dict[str, Any], status: int) -> None:
    """Fails unless an answer fits the schema that the document has for its status."""
    response = operation["responses"].get(str(status), operation["responses"]["default"])
    if name := response.get("$ref", "").rpartition("/")[2]:
        response = DOCUMENT["components"]["responses"][name]
    schema = response["content"]["application/json"]["schema"] | {"components": DOCUMENT["components"]}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(answer)] == []


@each_read
async def test_an_answer_fits_its_schema(mesh: Mesh, method: MethodContract, binding: HttpBinding) -> None:
    headers = {"authorization": f"Bearer {await mesh.admin_token()}"}
    answer = await mesh.http.get(binding.path, headers=headers)
    assert answer.status_code == method.success_status, answer.text
    check(answer.json(), DOCUMENT["paths"][binding.path]["get"], answer.status_code)


@each_read
async def test_an_unknown_parameter_is_refused_in_the_shape_of_every_error(
    mesh: Mesh, method: MethodContract, binding: HttpBinding
) -> None:
    headers = {"authorization": f"Bearer {await mesh.admin_token()}"}
    answer = await mesh.http.get(binding.path, params={"nobody_knows": "it"}, headers=headers)
    assert answer.status_code == 400, method.path
    check(answer.json(), DOCUMENT["paths"][binding.path]["get"], answer.status_code)


@each_read
async def test_only_public_reads_answer_without_a_token(
    mesh: Mesh, method: MethodContract, binding: HttpBinding
) -> None:
    answer = await mesh.http.get(binding.path)
    operation = DOCUMENT["paths"][binding.path]["get"]
    assert (answer.status_code == 401) == (operation["security"] != []), method.path
    check(answer.json(), operation, answer.status_code)
