"""The OpenAPI document is valid, and says what the contracts say."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import validate

from chassis import contract

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "gen/openapi/protomesh.yaml").read_text())
    return loaded


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_every_binding_is_documented_and_nothing_else(document: dict[str, Any]) -> None:
    bound = {(b.verb.lower(), b.path) for method in contract.platform() for b in method.http}
    shown = {(verb, path) for path, item in document["paths"].items() for verb in item}
    assert shown == bound


def test_bounds_come_from_the_validation_rules(document: dict[str, Any]) -> None:
    body = document["paths"]["/v1/users/register"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert body["required"] == ["username", "email", "password"]
    assert (body["properties"]["password"]["minLength"], body["properties"]["password"]["maxLength"]) == (
        8,
        128,
    )
    assert body["properties"]["email"]["format"] == "email"


def test_who_sets_a_field_and_what_it_looks_like_comes_from_its_behavior(document: dict[str, Any]) -> None:
    product = document["components"]["schemas"]["catalog.v1.Product"]["properties"]
    assert product["etag"]["readOnly"]
    assert product["id"]["readOnly"]
    assert "readOnly" not in product["name"]
    assert product["sku"]["examples"] == ["85123A"]
    assert product["available"]["examples"] == [12]


def test_a_body_has_no_other_fields_than_its_message(document: dict[str, Any]) -> None:
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]
        for path in document["paths"].values()
        for operation in path.values()
        if "requestBody" in operation
    ]
    assert bodies
    assert all(body["additionalProperties"] is False for body in bodies)


def test_an_operation_says_with_which_reasons_it_fails(document: dict[str, Any]) -> None:
    place = document["paths"]["/v1/orders"]["post"]["responses"]
    assert "`OUT_OF_STOCK`: fewer units are available than were requested." in place["400"]["description"]
    assert document["paths"]["/v1/products/{id}"]["get"]["responses"]["404"]["description"].startswith(
        "`PRODUCT_NOT_FOUND`: "
    )


def test_status_values_are_the_lower_case_names_of_the_enum(document: dict[str, Any]) -> None:
    status = document["components"]["schemas"]["projects.v1.Project"]["properties"]["status"]
    assert "on_hold" in status["enum"]


def test_security_and_permission_come_from_access(document: dict[str, Any]) -> None:
    adjust = document["paths"]["/v1/products/{product_id}/stock:adjust"]["post"]
    assert adjust["security"] == [{"bearer": []}]
    assert adjust["x-permission"] == "catalog.stock.write"
    assert {"name": "idempotency-key", "required": True}.items() <= adjust["parameters"][-1].items()


def test_a_created_resource_answers_201_in_the_shape_of_the_resource(document: dict[str, Any]) -> None:
    created = document["paths"]["/v1/projects"]["post"]["responses"]["201"]
    assert created["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/projects.v1.Project"
    }


def test_every_error_has_the_one_shape(document: dict[str, Any]) -> None:
    shapes = [
        answer["content"]["application/json"]["schema"]
        for answer in document["components"]["responses"].values()
    ]
    assert shapes == [{"$ref": "#/components/schemas/Status"}] * len(shapes)


def test_a_server_stream_is_an_event_stream(document: dict[str, Any]) -> None:
    assert list(document["paths"]["/v1/orders/{id}:watch"]["get"]["responses"]["200"]["content"]) == [
        "text/event-stream"
    ]


def test_no_value_stands_for_none(document: dict[str, Any]) -> None:
    # Who means none leaves the field out.
    assert "_unspecified'" not in str(document)


def test_every_operation_may_be_unavailable_or_late(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            assert {"503", "504"} <= operation["responses"].keys()
