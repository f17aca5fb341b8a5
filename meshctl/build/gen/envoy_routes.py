"""Routes from contracts: the exact gRPC path and the REST bindings of each RPC, and refusals for the rest."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from chassis.contract import DEFAULT_MAX_REQUEST_BYTES, DEFAULT_TIMEOUT, HttpBinding, MethodContract
from meshctl.build.gen import envoy_bodies, envoy_gates

TYPE = "type.googleapis.com/envoy.extensions.filters.http."
_UNTRACED = {"random_sampling": {"numerator": 0}}
# What arrives while the rate limiter is asked, up to a stream's window and a read, must be less than half of a buffer:
# with more in it than that, Envoy never resumes reading, and responds only at the timeout. A smaller limit is the Lua
# filter's and the service's to hold.
_SMALLEST_BUFFER = 256 * 1024
# How much longer than the server the edge waits, so that the server's own DEADLINE_EXCEEDED arrives.
GRACE_SECONDS = 0.25
_PREVIOUS_HOSTS = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}
# Takes a filter in that http_filters leaves out.
_FILTER = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
_NO_TOKEN = {
    "envoy.filters.http.jwt_authn": {"@type": f"{TYPE}jwt_authn.v3.PerRouteConfig", "disabled": True}
}
_GRPC_HEADERS = (
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-accept-encoding",
    "accept-encoding",
)
# What a service says to gRPC clients alone stays here.
_REST_FILTERS = {
    "envoy.filters.http.lua": _FILTER,
    "envoy.filters.http.header_mutation": {
        "@type": f"{TYPE}header_mutation.v3.HeaderMutationPerRoute",
        "mutations": {"response_mutations": [{"remove": name} for name in _GRPC_HEADERS]},
    },
}
# The transcoder would not pass on a path that no contract names, to which the router must respond.
_UNCHECKED = {
    **_NO_TOKEN,
    "envoy.filters.http.grpc_json_transcoder": {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
        "disabled": True,
    },
}


# By stage.
_LIMITERS = ("rate_limit_per_address", "rate_limit_per_caller")


def _retry(on: str) -> dict[str, Any]:
    return {
        "retry_on": on,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [_PREVIOUS_HOSTS],
        "host_selection_retry_max_attempts": 5,
    }


RETRY_UNSENT = _retry("connect-failure,refused-stream,reset-before-request")
# A read may also be sent again when its server died in the middle.
RETRY_READ = _retry("connect-failure,refused-stream,reset-before-request,reset")


def routes(methods: Sequence[MethodContract]) -> list[dict[str, Any]]:
    """Returns Envoy's routes in the order in which they are tried; the last one refuses what no contract names."""
    bindings = sorted(
        ((binding, method) for method in methods for binding in method.http),
        key=lambda pair: (_is_pattern(pair[0].path), pair[0].path, pair[0].verb),
    )
    return [
        *_own_routes(),
        _preflight_route(),
        *(_grpc_route(method) for method in sorted(methods, key=lambda method: method.path)),
        _refusal("no such RPC", {"prefix": "/", "headers": [_is_grpc()]}),
        *(_rest_route(binding, method) for binding, method in bindings),
        *_other_verbs(bindings),
        _refusal("no such path", {"prefix": "/"}),
    ]


def _grpc_route(method: MethodContract) -> dict[str, Any]:
    match = {"path": method.path, "headers": [_verb("POST"), _is_grpc()]}
    return _route(method, method.path, match, whole_life=True)


def _rest_route(binding: HttpBinding, method: MethodContract) -> dict[str, Any]:
    verb = _readable() if _takes_head(binding, method) else _verb(binding.verb)
    match = {**_path_match(binding.path), "headers": [verb]}
    route = _route(method, f"{binding.verb} {binding.path}", match, whole_life=_streams(method))
    deadline = {"header": {"key": "grpc-timeout", "value": f"{int(method.timeout * 1000)}m"}}
    route["request_headers_to_add"] = [{**deadline, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    route["typed_per_filter_config"].update(_REST_FILTERS)
    marks = _rest_marks(binding, method)
    if marks:
        route["metadata"] = {"filter_metadata": {"envoy.filters.http.lua": marks}}
    return route


def _route(
    method: MethodContract, operation: str, match: dict[str, Any], *, whole_life: bool
) -> dict[str, Any]:
    """Returns a route. With `whole_life`, the contract's time counts from the first byte, as for gRPC and streams; else
    from the end of the request, so that a slow upload of JSON has a separate 30 s.
    """
    public = method.access is not None and method.access.kind == "public"
    # A public RPC is the same for all callers: it ignores tokens, so that a stale one does no harm.
    removed = {"request_headers_to_remove": ["authorization"]} if public else {}
    return {
        "name": method.full_name,
        "match": match,
        "route": _upstream(method, whole_life=whole_life),
        "decorator": {"operation": operation, "propagate": False},
        **({"tracing": _UNTRACED} if method.untraced else {}),
        **removed,
        "typed_per_filter_config": {
            **(_NO_TOKEN if public else {}),
            **_buffer(method),
            **{_LIMITERS[limit["stage"]]: _FILTER for limit in _rate_limits(method)},
            **({envoy_gates.name(method): _FILTER} if envoy_gates.has_gate(method) else {}),
        },
    }


def _upstream(method: MethodContract, *, whole_life: bool) -> dict[str, Any]:
    patience = f"{method.timeout + GRACE_SECONDS:g}s"
    life = {"max_stream_duration": patience, "grpc_timeout_header_max": patience}
    return {
        "cluster": method.deployable,
        # The priority only selects one of the two budgets of a cluster: for short calls, or for long ones.
        **({"priority": "HIGH"} if _takes_long(method) else {}),
        "timeout": "0s" if whole_life else patience,
        **({"max_stream_duration": life} if whole_life else {}),
        **({"idle_timeout": patience} if _streams(method) else {}),
        **({"retry_policy": RETRY_READ} if method.idempotency_level == "no_side_effects" else {}),
        **({"rate_limits": limits} if (limits := _rate_limits(method)) else {}),
    }


def _takes_long(method: MethodContract) -> bool:
    return _streams(method) or method.timeout > DEFAULT_TIMEOUT


def _streams(method: MethodContract) -> bool:
    return method.client_streaming or method.server_streaming


def _buffer(method: MethodContract) -> dict[str, Any]:
    config: dict[str, Any] = {"@type": f"{TYPE}buffer.v3.BufferPerRoute"}
    if method.client_streaming:
        return {"envoy.filters.http.buffer": {**config, "disabled": True}}
    limit = max(method.max_request_bytes, _SMALLEST_BUFFER)
    if limit == DEFAULT_MAX_REQUEST_BYTES:
        return {}
    return {"envoy.filters.http.buffer": {**config, "buffer": {"max_request_bytes": limit}}}


def _rate_limits(method: MethodContract) -> list[dict[str, Any]]:
    """Returns the rate limits: stage 0 counts addresses before the token is verified, stage 1 callers by its subject."""
    limit = method.rate_limit
    named = {"generic_key": {"descriptor_key": "method", "descriptor_value": method.path}}
    address = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}
    subject = {"key": "envoy.filters.http.jwt_authn", "path": [{"key": "token"}, {"key": "sub"}]}
    caller = {"metadata": {"descriptor_key": "caller", "metadata_key": subject, "source": "DYNAMIC"}}
    stages = []
    if limit is not None and limit.HasField("per_address"):
        stages.append({"stage": 0, "actions": [named, address]})
    if limit is not None and limit.HasField("per_caller"):
        stages.append({"stage": 1, "actions": [named, caller]})
    return stages


def _rest_marks(binding: HttpBinding, method: MethodContract) -> dict[str, str]:
    """Returns what the Lua filter does to a request and its response."""
    marks = {}
    if (body := envoy_bodies.message_of(method, binding)) is not None:
        marks["body"] = body.full_name
        if method.max_request_bytes < _SMALLEST_BUFFER:
            marks["max_bytes"] = str(method.max_request_bytes)
    if taken := _taken(binding):
        marks["taken"] = taken
    if method.success_status != 200:
        marks["success_status"] = str(method.success_status)
    if method.cache is not None:
        marks["cache_control"] = f"public, max-age={method.cache}"
    return marks


def _taken(binding: HttpBinding) -> str:
    """Returns the fields that the query must not name, as envoy/rest.lua reads them."""
    if binding.body == "*":
        return "*"
    fields = [*re.findall(r"\{([^}=]+)", binding.path), *([binding.body] if binding.body else [])]
    return ",".join(field.replace("_", "").lower() for field in fields)


def _other_verbs(bindings: Iterable[tuple[HttpBinding, MethodContract]]) -> list[dict[str, Any]]:
    """Returns two routes for each path: OPTIONS lists the methods, and any other method fails with 405."""
    verbs: dict[str, set[str]] = {}
    for binding, method in bindings:
        head = {"HEAD"} if _takes_head(binding, method) else set()
        verbs.setdefault(binding.path, set()).update({binding.verb}, head)
    answers = []
    for path, taken in verbs.items():
        allow = ", ".join([*sorted(taken), "OPTIONS"])
        match = _path_match(path)
        answers.append(_answer("options", {**match, "headers": [_verb("OPTIONS")]}, 204, allow))
        answers.append(_refusal("no such method", match, allow))
    return answers


def _answer(name: str, match: dict[str, Any], status: int, allow: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status},
        **_allowing(allow),
        "typed_per_filter_config": _UNCHECKED,
    }


def _refusal(name: str, match: dict[str, Any], allow: str = "") -> dict[str, Any]:
    """Returns a route to a cluster that does not exist, which is 404, or what envoy/errors.yaml has for its name.

    The CORS filter does nothing for a direct response, and a page could not read the error.
    """
    return {
        "name": name,
        "match": match,
        "route": {"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"},
        **_allowing(allow),
        "typed_per_filter_config": _UNCHECKED,
    }


def _allowing(methods: str) -> dict[str, Any]:
    header = {"header": {"key": "allow", "value": methods}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"response_headers_to_add": [header]} if methods else {}


def _own_routes() -> Iterator[dict[str, Any]]:
    """Yields what the edge answers itself: whether it is there, whether the mesh can serve, and the API's description.

    Who asks for health does so all the time, so those traces would be noise.
    """
    yield {**_answer("health", {"path": "/healthz"}, 200), "tracing": _UNTRACED}
    ready = _answer("readiness", {"path": "/readyz"}, 200)
    filters = {**_UNCHECKED, "envoy.filters.http.health_check": _FILTER}
    yield {**ready, "tracing": _UNTRACED, "typed_per_filter_config": filters}
    kind = {"header": {"key": "content-type", "value": "application/yaml"}}
    yield {
        **_answer("openapi", {"path": "/openapi.yaml"}, 200),
        "direct_response": {"status": 200, "body": {"filename": "${setting.openapi}"}},
        "response_headers_to_add": [{**kind, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _preflight_route() -> dict[str, Any]:
    """Returns the route of a browser's preflight: the CORS filter responds, provided that the route names a cluster."""
    asks = [{"name": name, "present_match": True} for name in ("origin", "access-control-request-method")]
    return _refusal("preflight", {"prefix": "/", "headers": [_verb("OPTIONS"), *asks]})


def _verb(verb: str) -> dict[str, Any]:
    return {"name": ":method", "string_match": {"exact": verb}}


def _takes_head(binding: HttpBinding, method: MethodContract) -> bool:
    # A stream has no length, and its headers come with its first message.
    return binding.verb == "GET" and not method.server_streaming


def _readable() -> dict[str, Any]:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}


def _is_grpc() -> dict[str, Any]:
    return {"name": "content-type", "string_match": {"prefix": "application/grpc"}}


def _is_pattern(path: str) -> bool:
    return "{" in path or "*" in path


def _path_match(path: str) -> dict[str, Any]:
    if not _is_pattern(path):
        return {"path": path}
    return {"safe_regex": {"regex": _regex(path)}}


def _regex(template: str) -> str:
    """Returns the regular expression of a path template such as `/v1/orders/{id}:watch`. A variable is one segment
    without a colon, since a colon begins a verb; in `{name=articles/**}`, `**` is any number of segments.
    """
    spelled = re.sub(r"\{[^}=]+=([^}]+)\}", r"\1", template)
    spelled = re.sub(r"\{[^}]+\}", "*", spelled)
    parts = re.split(r"(\*\*|\*)", spelled)
    wild = {"*": "[^/:]+", "**": "[^:]+"}
    return "".join(wild.get(part) or re.escape(part) for part in parts)
