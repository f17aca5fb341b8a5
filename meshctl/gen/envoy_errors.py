"""The errors that Envoy raises itself, in the one envelope: for JSON a body, for gRPC a status with its details."""

import base64
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "protomesh"
TYPE = "type.googleapis.com/"


class LocalError(TypedDict):
    """One entry of envoy/errors.yaml, which describes its fields."""

    status: int | str
    code: str
    reason: str
    message: str
    details: NotRequired[str]
    answer: NotRequired[int]
    retry: NotRequired[bool]


def load(path: Path) -> list[LocalError]:
    """The table, in the order in which it is searched."""
    entries: list[LocalError] = yaml.safe_load(path.read_text())
    return entries


def mappers(errors: list[LocalError]) -> list[dict[str, Any]]:
    """Envoy's `local_reply_config.mappers`: of each error its gRPC form, then its JSON form."""
    return [mapper for error in errors for mapper in (_grpc_mapper(error), _json_mapper(error))]


def _grpc_mapper(error: LocalError) -> dict[str, Any]:
    is_grpc = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
    return {
        "filter": {"and_filter": {"filters": [is_grpc, *_conditions(error)]}},
        "body_format_override": {"text_format_source": {"inline_string": error["message"]}},
        "headers_to_add": [
            {
                "header": {"key": "grpc-status-details-bin", "value": _status_header(error)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def _json_mapper(error: LocalError) -> dict[str, Any]:
    conditions = _conditions(error)
    answer = {"status_code": error["answer"]} if "answer" in error else {}
    return {
        "filter": {"and_filter": {"filters": conditions}} if len(conditions) > 1 else conditions[0],
        **answer,
        "body_format_override": {"json_format": _json_body(error), "content_type": "application/json"},
    }


def _conditions(error: LocalError) -> list[dict[str, Any]]:
    conditions = [_status_filter(error["status"])]
    if "details" in error:
        expression = f"response.code_details.startsWith('{error['details']}')"
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
        (status, "EQ") if isinstance(status, int) else (int(status.removeprefix(">=").replace("any", "0")), "GE")
    )
    value = {"default_value": number, "runtime_key": "edge.unset"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _json_body(error: LocalError) -> dict[str, Any]:
    details: list[dict[str, Any]] = [
        {"@type": f"{TYPE}google.rpc.ErrorInfo", "reason": error["reason"], "domain": DOMAIN, "metadata": {}}
    ]
    if error.get("retry"):
        details.append({"@type": f"{TYPE}google.rpc.RetryInfo", "retry_delay": "%RESP(RETRY-AFTER)%s"})
    return {"code": code_pb2.Code.Value(error["code"]), "message": error["message"], "details": details}


def _status_header(error: LocalError) -> str:
    # A header of a local reply is a fixed text, so the details of native gRPC cannot repeat the request's own words.
    status = status_pb2.Status(code=code_pb2.Code.Value(error["code"]), message=error["message"])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error["reason"], domain=DOMAIN))
    if error.get("retry"):
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1)))
    return base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("=")
