"""The errors that Envoy raises itself, as google.rpc.Status: for JSON a body, for gRPC a status with details."""

import base64
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "protomesh"
TYPE = "type.googleapis.com/"
# A transcoded request looks like gRPC here, but Envoy responds in the client's form; the transcoder leaves a mark.
_NATIVE_GRPC = [
    {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}},
    {"header_filter": {"header": {"name": "x-envoy-original-method", "present_match": False}}},
]


class LocalError(TypedDict):
    """One entry of envoy/errors.yaml, which describes its fields."""

    status: int | str
    code: str
    reason: str
    message: str
    details: NotRequired[str]
    route: NotRequired[str]
    grpc_code: NotRequired[str]
    answer: NotRequired[int]
    retry: NotRequired[bool]
    retry_after: NotRequired[int]


def load(path: Path) -> list[LocalError]:
    """Returns the table, in the order in which it is searched."""
    entries: list[LocalError] = yaml.safe_load(path.read_text())
    return entries


def mappers(errors: list[LocalError]) -> list[dict[str, Any]]:
    """Returns Envoy's `local_reply_config.mappers`: for each error its gRPC form, then its JSON form."""
    return [mapper for error in errors for mapper in (_grpc_mapper(error), _json_mapper(error))]


def _grpc_mapper(error: LocalError) -> dict[str, Any]:
    status = _grpc_status(error)
    headers = {
        # Envoy would derive the code from HTTP's, so that a request of the wrong form would be INTERNAL.
        "grpc-status": str(status.code),
        "grpc-message": status.message,
        "grpc-status-details-bin": base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("="),
        **_retry_header(error),
    }
    return {
        "filter": {"and_filter": {"filters": [*_NATIVE_GRPC, *_conditions(error)]}},
        # With another status or with a body, the gRPC-Web filter would replace code and message with its own.
        "status_code": 200,
        "body_format_override": {"text_format_source": {"inline_string": "%REQ(:no-body)%"}, "omit_empty_values": True},
        "headers_to_add": _headers(headers),
    }


def _json_mapper(error: LocalError) -> dict[str, Any]:
    conditions = _conditions(error)
    return {
        "filter": {"and_filter": {"filters": conditions}} if len(conditions) > 1 else conditions[0],
        **_answer(error),
        "body_format_override": {"json_format": _json_body(error), "content_type": "application/json"},
        **({"headers_to_add": _headers(_retry_header(error))} if "retry_after" in error else {}),
    }


def _headers(values: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in values.items()
    ]


def _retry_header(error: LocalError) -> dict[str, str]:
    return {"retry-after": str(error["retry_after"])} if "retry_after" in error else {}


def _answer(error: LocalError) -> dict[str, Any]:
    return {"status_code": error["answer"]} if "answer" in error else {}


def _conditions(error: LocalError) -> list[dict[str, Any]]:
    conditions = [_status_filter(error["status"])]
    expressions = []
    if "details" in error:
        expressions.append(f"response.code_details.startsWith('{error['details']}')")
    if "route" in error:
        expressions.append(f"xds.route_name == '{error['route']}'")
    for expression in expressions:
        cel = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
        conditions.append(
            {
                "extension_filter": {
                    "name": "envoy.access_loggers.extension_filters.cel",
                    "typed_config": {"@type": cel, "expression": expression},
                }
            }
        )
    return conditions


def _status_filter(status: int | str) -> dict[str, Any]:
    number, operator = (
        (status, "EQ")
        if isinstance(status, int)
        else (int(status.removeprefix(">=").replace("any", "0")), "GE")
    )
    value = {"default_value": number, "runtime_key": "edge.unset"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _json_body(error: LocalError) -> dict[str, Any]:
    details: list[dict[str, Any]] = [
        {"@type": f"{TYPE}google.rpc.ErrorInfo", "reason": error["reason"], "domain": DOMAIN, "metadata": {}}
    ]
    if "retry_after" in error or error.get("retry"):
        seconds = error.get("retry_after", "%RESP(RETRY-AFTER)%")
        details.append({"@type": f"{TYPE}google.rpc.RetryInfo", "retry_delay": f"{seconds}s"})
    return {"code": code_pb2.Code.Value(error["code"]), "message": error["message"], "details": details}


def _fixed_message(error: LocalError) -> str:
    # The details are a fixed header, and their message must equal that of the status.
    return error["message"].removesuffix(": %LOCAL_REPLY_BODY%")


def _grpc_status(error: LocalError) -> status_pb2.Status:
    code = code_pb2.Code.Value(error.get("grpc_code", error["code"]))
    status = status_pb2.Status(code=code, message=_fixed_message(error))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error["reason"], domain=DOMAIN))
    if "retry_after" in error or error.get("retry"):
        delay = Duration(seconds=error.get("retry_after", 1))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status
