"""The OpenAPI 3.1 document of the edge's REST API."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis.contract import HttpBinding, MethodContract
from meshctl.build.gen import openapi_errors
from meshctl.build.gen.bounds import Schema
from meshctl.build.gen.comments import Comments
from meshctl.build.gen.reasons import Reason
from meshctl.build.gen.schemas import Schemas


def document(methods: Sequence[MethodContract], comments: Comments, reasons: Mapping[str, Reason]) -> str:
    """Returns the document as YAML: every RPC with a REST binding, ordered by path."""
    exposed = [method for method in methods if method.http]
    schemas = Schemas(comments, (method.descriptor.input_type for method in exposed))
    paths: dict[str, dict[str, Any]] = {}
    for binding, method in sorted(_bindings(exposed), key=lambda pair: (pair[0].path, pair[0].verb)):
        operation = _operation(method, binding, schemas, comments, reasons)
        paths.setdefault(_plain(binding.path), {})[binding.verb.lower()] = operation
    components = {
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        "responses": openapi_errors.responses(),
        "schemas": dict(sorted(({"Status": openapi_errors.status(schemas)} | schemas.components).items())),
    }
    return yaml.dump(
        {
            "openapi": "3.1.0",
            "info": {"title": "Protomesh", "version": "v1", "description": _INTRODUCTION},
            "servers": [{"url": "/"}],
            "tags": [_tag(service, comments) for service in sorted({method.service for method in exposed})],
            "paths": paths,
            "components": components,
        },
        Dumper=_Plain,
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )


_INTRODUCTION = (
    "JSON over HTTP for every RPC that the mesh exposes. Field names are those of the contracts, 64-bit numbers are "
    "strings, times are RFC 3339 in UTC, and every error is a google.rpc.Status whose ErrorInfo names the reason."
)


class _Plain(yaml.SafeDumper):
    """Repeats what occurs twice, for readers that do not support YAML's anchors."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def _bindings(methods: Sequence[MethodContract]) -> Iterator[tuple[HttpBinding, MethodContract]]:
    return ((binding, method) for method in methods for binding in method.http)


def _tag(service: str, comments: Comments) -> Schema:
    return {"name": service.rpartition(".")[2], "description": comments.of(service)}


def _operation(
    method: MethodContract,
    binding: HttpBinding,
    schemas: Schemas,
    comments: Comments,
    reasons: Mapping[str, Reason],
) -> Schema:
    description, errors = comments.description(method.full_name), comments.errors(method.full_name)
    operation: Schema = {
        "operationId": f"{method.service.rpartition('.')[2]}_{method.name}" + _suffix(method, binding),
        "tags": [method.service.rpartition(".")[2]],
        "summary": re.split(r"(?<=[.:;])\s", description, maxsplit=1)[0].rstrip(".:;"),
        "description": f"{description}\n\nErrors: {errors}" if errors else description,
        **_security(method),
    }
    if parameters := [*_parameters(method, binding, schemas), *_headers(method, comments)]:
        operation["parameters"] = parameters
    if binding.body:
        operation["requestBody"] = _request_body(method, binding, schemas)
    operation["responses"] = _responses(method, binding, schemas, [reasons[name] for name in sorted(method.errors)])
    return operation


def _suffix(method: MethodContract, binding: HttpBinding) -> str:
    # An operationId is unique, and an RPC may be bound more than once.
    at = method.http.index(binding)
    return f"_{at + 1}" if at else ""


def _security(method: MethodContract) -> Schema:
    access = method.access
    if access is None or access.kind == "public":
        return {"security": []}
    security: Schema = {"security": [{"bearer": []}]}
    if access.permission:
        security |= {"x-permission": access.permission, "x-roles": sorted({*access.granted_to, "admin"})}
    if access.owner_field:
        security["x-owner"] = access.owner_field
    return security


def _parameters(method: MethodContract, binding: HttpBinding, schemas: Schemas) -> Iterator[Schema]:
    message = method.descriptor.input_type
    bound = _path_variables(binding.path)
    for name in bound:
        yield {
            "name": name,
            "in": "path",
            "required": True,
            **_lifted(schemas.field(_field_at(message, name))),
        }
    if binding.body == "*":
        return
    required = schemas.required(message)
    for name, field in _query_fields(message):
        if name not in bound and name.partition(".")[0] != binding.body:
            need = {"required": True} if name in required else {}
            yield {"name": name, "in": "query", **need, **_lifted(schemas.field(field))}


def _lifted(schema: Schema) -> Schema:
    """Moves a parameter's comment next to its schema, where documentation shows it."""
    description = schema.pop("description", "")
    return {**({"description": description} if description else {}), "schema": schema}


def _query_fields(request: Descriptor, prefix: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    for field in request.fields:
        message = field.message_type
        if message is None or message.full_name.startswith("google.protobuf."):
            yield prefix + field.name, field
        elif not field.is_repeated:
            yield from _query_fields(message, f"{prefix}{field.name}.")


def _headers(method: MethodContract, comments: Comments) -> Iterator[Schema]:
    if method.idempotency_key in ("required_header", "optional_header"):
        key = {"type": "string", "minLength": 16, "maxLength": 255, "pattern": r"^[\x21-\x7E]+$"}
        text = "Names this call, so that repeating it with the same key has no second effect and the same answer."
        required = method.idempotency_key == "required_header"
        yield {
            "name": "idempotency-key",
            "in": "header",
            "required": required,
            "description": text,
            "schema": key,
        }
    if "etag" in method.descriptor.input_type.fields_by_name:
        text = "The ETag that was read; what was changed since is left alone."
        yield {"name": "if-match", "in": "header", "description": text, "schema": {"type": "string"}}
    if _shows_etag(method):
        text = "The ETag that is held; 304 when it still holds."
        yield {"name": "if-none-match", "in": "header", "description": text, "schema": {"type": "string"}}


def _request_body(method: MethodContract, binding: HttpBinding, schemas: Schemas) -> Schema:
    message = method.descriptor.input_type
    if binding.body == "*":
        schema = schemas.inline(message, without=_path_variables(binding.path))
    else:
        schema = schemas.field(message.fields_by_name[binding.body])
    media = "application/octet-stream" if schema.get("format") == "binary" else "application/json"
    return {"required": True, "content": {media: {"schema": schema}}}


def _responses(
    method: MethodContract, binding: HttpBinding, schemas: Schemas, reasons: Sequence[Reason]
) -> Schema:
    statuses = {400, 429, 503, 504} | ({413} if binding.body else set())
    if method.access is not None and method.access.kind != "public":
        statuses |= {401, 403} if method.access.kind == "permission" else {401}
    statuses |= openapi_errors.statuses(reason.code for reason in reasons)
    if method.idempotency_key in ("required_header", "optional_header"):
        statuses.add(409)
    responses: Schema = {str(method.success_status): _success(method, binding, schemas)}
    if _shows_etag(method):
        responses["304"] = {"description": "The client's copy is current."}
    for status in sorted(statuses):
        responses[str(status)] = openapi_errors.response(status, reasons)
    return responses | {"default": {"$ref": "#/components/responses/default"}}


def _success(method: MethodContract, binding: HttpBinding, schemas: Schemas) -> Schema:
    message = method.descriptor.output_type
    answer = schemas.reference(message)
    if binding.response_body:
        answer = schemas.field(message.fields_by_name[binding.response_body])
    if method.server_streaming:
        item = {"type": "string", "contentMediaType": "application/json", "contentSchema": answer}
        content = {"text/event-stream": {"schema": item}}
        return {"description": "Server-sent events, one for each message.", "content": content}
    media = "*/*" if answer.get("format") == "binary" else "application/json"
    success: Schema = {"description": "The response.", "content": {media: {"schema": answer}}}
    headers = {
        **({"ETag": {"schema": {"type": "string"}}} if method.cache is not None or _has_etag(method) else {}),
        **({"Cache-Control": {"schema": {"type": "string"}}} if method.cache is not None else {}),
    }
    return success | ({"headers": headers} if headers else {})


def _has_etag(method: MethodContract) -> bool:
    return "etag" in method.descriptor.output_type.fields_by_name


def _shows_etag(method: MethodContract) -> bool:
    """Whether a client with a copy of the response can make a conditional request."""
    reads = method.idempotency_level == "no_side_effects" and not method.server_streaming
    return reads and (method.cache is not None or _has_etag(method))


def _plain(path: str) -> str:
    """Returns a path template as OpenAPI writes it: `{name=shelves/*}` is `{name}`."""
    return re.sub(r"\{([^}=]+)=[^}]*\}", r"{\1}", path)


def _path_variables(path: str) -> list[str]:
    return re.findall(r"\{([^}=]+)", path)


def _field_at(message: Descriptor, name: str) -> FieldDescriptor:
    first, _, rest = name.partition(".")
    field = message.fields_by_name[first]
    return _field_at(field.message_type, rest) if rest and field.message_type else field
