"""The error responses of the OpenAPI document: all of them have one shape, google.rpc.Status."""

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2

from meshctl.build.gen.bounds import Schema
from meshctl.build.gen.reasons import Reason
from meshctl.build.gen.schemas import Schemas

_CODE_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_ERRORS = {
    400: "The request breaks its contract, or the current state does not allow it; see `reason`.",
    401: "The access token is missing or not valid.",
    403: "The caller may not do this.",
    404: "The resource does not exist, or the caller may not see it.",
    409: "The request conflicts with an existing resource or with a concurrent change.",
    413: "The request is larger than the RPC accepts.",
    429: "Too many requests; `Retry-After` says when to try again.",
    503: "A service that the request depends on is unavailable; try again.",
    504: "The deadline passed before the response was ready; a change may have been made nevertheless.",
}
_DETAILS = ("ErrorInfo", "BadRequest", "RetryInfo", "QuotaFailure")


def statuses(codes: Iterable[str]) -> set[int]:
    """Returns the HTTP statuses of canonical codes such as `NOT_FOUND` that have a response in the document."""
    return {_CODE_STATUS[code] for code in codes if code in _CODE_STATUS}


def response(status: int, reasons: Iterable[Reason]) -> Schema:
    """Returns an operation's reference to an error response, with the operation's own reasons for this status."""
    own = [reason for reason in reasons if _CODE_STATUS.get(reason.code) == status]
    reference: Schema = {"$ref": f"#/components/responses/{status}"}
    if own:
        reference["description"] = "\n".join(f"`{reason.name}`: {reason.meaning}" for reason in own)
    return reference


def responses() -> dict[str, Schema]:
    """Returns the error responses that operations refer to, by HTTP status, and `default` for the rest."""
    documented = {str(status): _error(status, text) for status, text in _ERRORS.items()}
    return documented | {"default": _error(0, "Any other error, in the shape that all errors have.")}


def _error(status: int, description: str) -> Schema:
    error: Schema = {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}},
    }
    if status == 429:
        error["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}
        }
    return error


def status(schemas: Schemas) -> Schema:
    """Returns google.rpc.Status in its JSON form: each detail has its type in `@type`."""
    known = error_details_pb2.DESCRIPTOR.message_types_by_name
    details = [_detail(known[name], schemas) for name in _DETAILS]
    return {
        "type": "object",
        "description": "What went wrong: a google.rpc.Status. `details` always holds an ErrorInfo.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {
                "type": "integer",
                "format": "int32",
                "description": "A canonical code, google.rpc.Code.",
            },
            "message": {"type": "string", "description": "A sentence for people."},
            "details": {"type": "array", "items": {"anyOf": details}},
        },
    }


def _detail(message: Descriptor, schemas: Schemas) -> Schema:
    kind = {"const": f"type.googleapis.com/{message.full_name}"}
    named = {"type": "object", "required": ["@type"], "properties": {"@type": kind}}
    return {"allOf": [named, schemas.reference(message)]}
