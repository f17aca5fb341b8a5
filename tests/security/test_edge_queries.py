"""A query says nothing that the path or the body says, so that no log, proxy or page sees another request."""

import json
import re

import pytest

from chassis.contract import HttpBinding, MethodContract, platform
from tests.edge_stand import EdgeStand
from tests.security.test_edge_requests import ID, assert_refused

BINDINGS = [
    (binding, method)
    for method in platform()
    for binding in method.http
    if method.access is not None and method.access.kind != "internal"
]


def named(value: HttpBinding | MethodContract | str) -> str | None:
    return f"{value.verb} {value.path}" if isinstance(value, HttpBinding) else None


OTHER = "0198f2a0-0000-7000-8000-00000000dead"


def path_of(binding: HttpBinding) -> str:
    return re.sub(r"\{[^}]+\}", ID, binding.path)


@pytest.mark.parametrize(("binding", "method"), [pair for pair in BINDINGS if "{" in pair[0].path], ids=named)
@pytest.mark.parametrize("spelled", ["{}", "x=1&{}", "{}.value"])
async def test_a_query_never_overrides_the_path(
    stand: EdgeStand, binding: HttpBinding, method: MethodContract, spelled: str
) -> None:
    for variable in re.findall(r"\{([^}=]+)", binding.path):
        first, *rest = variable.split("_")
        camel = first + "".join(word.capitalize() for word in rest)
        for name in {variable, camel}:
            response = await stand.http.request(
                binding.verb,
                f"{path_of(binding)}?{spelled.format(name)}={OTHER}",
                headers={**stand.bearer(), "idempotency-key": "0123456789abcdef"},
            )
            assert_refused(response, 400, "REQUEST_MALFORMED")
    assert stand.upstream.received == []


@pytest.mark.parametrize("name", ["i%64", "%69d", "id%00", "id[]", "id;x"])
async def test_no_spelling_of_a_name_gets_past(stand: EdgeStand, name: str) -> None:
    response = await stand.http.delete(f"/v1/projects/{ID}?{name}={OTHER}", headers=stand.bearer())
    assert_refused(response, 400, "REQUEST_MALFORMED")
    assert stand.upstream.received == []


@pytest.mark.parametrize(("binding", "method"), [pair for pair in BINDINGS if pair[0].body == "*"], ids=named)
async def test_beside_a_body_there_is_no_query(
    stand: EdgeStand, binding: HttpBinding, method: MethodContract
) -> None:
    fields = [field.name for field in method.descriptor.input_type.fields]
    for query in ("x=1&&y", *(f"{field}={value}" for field in fields[:2] for value in ("x", ""))):
        response = await stand.http.request(
            binding.verb,
            f"{path_of(binding)}?{query}",
            content=json.dumps({}),
            headers={**stand.bearer(), "idempotency-key": "0123456789abcdef"},
        )
        assert_refused(response, 400, "REQUEST_MALFORMED")
        assert "query" in response.json()["message"]
    assert stand.upstream.received == []


async def test_a_question_mark_alone_is_no_query(stand: EdgeStand) -> None:
    response = await stand.http.post("/v1/users/login?", json={"email": "a@b.example", "password": "x"})
    assert response.status_code == 200
