"""The edge's configuration against the contracts that it is derived from."""

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from protomesh.type.v1 import error_reason_pb2

from chassis import contract
from chassis.contract import MethodContract
from meshctl.build.gen import envoy, envoy_errors, envoy_gates, envoy_matcher, envoy_routes
from meshctl.edge import rendering
from tests import certificates
from tests.edge_stand import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
METHODS = contract.platform()
EXPOSED = [method for method in METHODS if method.access is not None and method.access.kind != "internal"]
INTERNAL = [method for method in METHODS if method not in EXPOSED]


@pytest.fixture(scope="module")
def routes() -> list[dict[str, Any]]:
    return envoy_routes.routes(EXPOSED)


def first_route(routes: list[dict[str, Any]], verb: str, path: str, content_type: str = "") -> dict[str, Any]:
    """The route that Envoy would take."""
    headers = {":method": verb, "content-type": content_type}
    return next(route for route in routes if fits(route["match"], path, headers))


def fits(match: dict[str, Any], path: str, headers: dict[str, str]) -> bool:
    if "path" in match and path != match["path"]:
        return False
    if "safe_regex" in match and not re.fullmatch(match["safe_regex"]["regex"], path):
        return False
    return all(header_fits(wanted, headers.get(wanted["name"], "")) for wanted in match.get("headers", []))


def header_fits(wanted: dict[str, Any], value: str) -> bool:
    match wanted:
        case {"string_match": {"exact": exact}}:
            return bool(value == exact)
        case {"string_match": {"prefix": prefix}}:
            return value.startswith(prefix)
        case {"string_match": {"safe_regex": {"regex": regex}}}:
            return bool(re.fullmatch(regex, value))
    return bool(value)


def sample_path(template: str) -> str:
    return re.sub(r"\{[^}]+\}", "0198f2a0-0000-7000-8000-000000000001", template)


@pytest.mark.parametrize("method", EXPOSED, ids=lambda method: method.full_name)
def test_every_exposed_rpc_is_reached_by_its_path_and_by_each_of_its_bindings(
    routes: list[dict[str, Any]], method: MethodContract
) -> None:
    assert first_route(routes, "POST", method.path, "application/grpc")["name"] == method.full_name
    for binding in method.http:
        route = first_route(routes, binding.verb, sample_path(binding.path))
        assert (route["name"], route["route"]["cluster"]) == (method.full_name, method.deployable)


def test_every_rpc_that_may_take_long_has_a_gate_on_each_of_its_routes(routes: list[dict[str, Any]]) -> None:
    gates = {gate["name"] for gate in envoy_gates.filters(EXPOSED)}
    assert gates == {
        envoy_gates.name(method)
        for method in EXPOSED
        if method.timeout > 2 and not method.client_streaming and not method.server_streaming
    }
    for route in routes:
        enabled = {name for name in route["typed_per_filter_config"] if name.startswith("gate_")}
        assert enabled == gates & {f"gate_{route['name']}"}


VERBS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
PATHS = {
    "/",
    "/healthz",
    "/healthz/",
    "/v1",
    "/v1/",
    "/v1/nothing",
    "/protomesh.catalog.v1.ProductService",
    *(method.path for method in METHODS),
    *(
        path
        for method in EXPOSED
        for binding in method.http
        for whole in [sample_path(binding.path)]
        for path in (whole, whole + "x", whole + ":x", whole + "/x", whole.upper())
    ),
}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_the_matcher_takes_the_route_that_is_first_in_the_list(
    routes: list[dict[str, Any]], path: str
) -> None:
    matcher = envoy_matcher.matcher(routes)
    beginnings = matcher["matcher_tree"]["prefix_match_map"]["map"]
    fitting = max((key for key in beginnings if path.startswith(key)), key=len, default=None)
    action = (beginnings[fitting] if fitting else matcher["on_no_match"])["action"]
    held = action["typed_config"]["routes"]
    assert len(held) < len(routes) / 3
    for verb, content_type in itertools.product(VERBS, ("", "application/grpc")):
        assert first_route(held, verb, path, content_type) is first_route(routes, verb, path, content_type)


@pytest.mark.parametrize("method", INTERNAL, ids=lambda method: method.full_name)
def test_no_internal_rpc_has_a_route(routes: list[dict[str, Any]], method: MethodContract) -> None:
    for content_type in ("application/grpc", "application/grpc-web+proto", "application/json", ""):
        assert first_route(routes, "POST", method.path, content_type)["route"]["cluster"] == "nowhere"


def test_only_public_rpcs_are_let_through_without_a_token(routes: list[dict[str, Any]]) -> None:
    public = {method.full_name for method in EXPOSED if method.access and method.access.kind == "public"}
    unchecked = {
        route["name"]
        for route in routes
        if "envoy.filters.http.jwt_authn" in route["typed_per_filter_config"]
        and "direct_response" not in route
        and route["route"]["cluster"] != "nowhere"
    }
    assert unchecked == public


def test_a_quota_for_callers_needs_a_token() -> None:
    for method in EXPOSED:
        if method.rate_limit is not None and method.rate_limit.HasField("per_caller"):
            assert method.access is not None
            assert method.access.kind != "public", f"{method.full_name} is public: it knows no caller"


def test_every_reason_of_the_edge_is_in_the_catalogue() -> None:
    for error in envoy_errors.load(ROOT / "envoy/errors.yaml"):
        assert error["reason"] in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - no mapping


def test_nothing_is_left_open_but_the_settings_of_the_place() -> None:
    open_names = set(re.findall(r"\$\{([a-z_.]+)\}", envoy.render(METHODS)))
    assert open_names
    assert {name.partition(".")[0] for name in open_names} == {"setting"}


@pytest.mark.parametrize("with_tls", [False, True])
def test_envoy_takes_the_configuration(tmp_path: Path, with_tls: bool) -> None:
    certificates.issue(tmp_path, *WORKLOADS)
    tls = (
        {"tls_certificate": tmp_path / "edge.pem", "tls_private_key": tmp_path / "edge.key"}
        if with_tls
        else {}
    )
    settings = rendering.EdgeSettings.model_validate(
        {"certificates": tmp_path, "targets": {"catalog": "ipv4:127.0.0.1:5001"}, **tls}
    )
    command = rendering.command(settings, rendering.write(settings, tmp_path / "edge"))
    checked = subprocess.run([*command, "--mode", "validate"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_setting_of_the_edge_is_documented() -> None:
    page = (ROOT / "docs/edge.md").read_text()
    for name in rendering.EdgeSettings.model_fields:
        assert f"`PROTOMESH_EDGE_{name.upper()}`" in page


def test_the_committed_configuration_is_plain_yaml() -> None:
    tree = yaml.safe_load((ROOT / "gen/envoy/edge.yaml").read_text())
    assert {listener["name"] for listener in tree["static_resources"]["listeners"]} == {
        "edge",
        "jwks",
        "metrics",
    }
