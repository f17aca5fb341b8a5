"""`meshctl call`: calls any RPC by its name, with JSON over mTLS, directly at its service as a workload of the mesh."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import Message

from chassis import contract
from chassis.contract import MethodContract
from chassis.core import from_rpc, status_of
from chassis.observe import exporter
from chassis.trust import Certificates
from meshctl.core import deployables
from meshctl.core.arguments import Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.core.suggestions import meant
from meshctl.core.terminal import print_json
from meshctl.mesh.running import RunningMesh
from meshctl.mesh.session import OperatorSession

HEADER_FORM = "NAME: VALUE"


def call(
    method: Annotated[
        str, typer.Argument(help="package.Service/Method, or Service/Method, or Method where only one fits.")
    ] = "",
    request: Annotated[
        str, typer.Argument(help="The request as JSON; - reads it from standard input, several for a stream.")
    ] = "{}",
    as_: Annotated[str, typer.Option("--as", help="The workload whose certificate is used.")] = "developer",
    admin: Annotated[bool, typer.Option("--admin", help="Call with the rights of an administrator.")] = False,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar=HEADER_FORM, help="Metadata of the call.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the RPCs, or those whose names contain METHOD.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: write JSON.")] = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Call an RPC of the running mesh.

    The exit code is 1 when it fails.
    """
    if list_ or not method:
        listed = [rpc for rpc in contract.platform() if method.lower() in _line(rpc).lower()]
        print_json([_fields(rpc) for rpc in listed]) if as_json else print("\n".join(map(_line, listed)))
        return
    found = _find(method)
    if as_ not in deployables.workloads():
        raise OperatorError(
            f"There is no workload {as_!r}: the workloads are {', '.join(deployables.workloads())}."
        )
    messages, metadata = _messages(found, request), [_header(text) for text in header or []]
    asyncio.run(_call(data, found, messages, as_, metadata, admin=admin))


def _line(method: MethodContract) -> str:
    answers = "stream " if method.server_streaming else ""
    takes = "stream " if method.client_streaming else ""
    request, response = method.descriptor.input_type.name, method.descriptor.output_type.name
    return f"{method.path[1:]}({takes}{request}) → {answers}{response}"


def _fields(method: MethodContract) -> dict[str, object]:
    return {
        "rpc": method.path[1:],
        "deployable": method.deployable,
        "request": method.descriptor.input_type.full_name,
        "response": method.descriptor.output_type.full_name,
        "client_streaming": method.client_streaming,
        "server_streaming": method.server_streaming,
    }


def _find(name: str) -> MethodContract:
    wanted = name.strip("/")
    found = [
        method
        for method in contract.platform()
        if method.path[1:] == wanted or method.path.endswith((f"/{wanted}", f".{wanted}"))
    ]
    if len(found) != 1:
        known = ", ".join(method.path[1:] for method in found) + "." if found else _meant(wanted)
        raise OperatorError(f"{name!r} names {f'{len(found)} RPCs' if found else 'no RPC'}: {known}")
    return found[0]


def _meant(misspelt: str) -> str:
    """Returns what the person may have meant, or how to find it."""
    close = meant(misspelt.rpartition("/")[2], sorted({method.name for method in contract.platform()}))
    return f"did you mean {' or '.join(close)}?" if close else "see `meshctl call --list`."


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise OperatorError(f"{text!r} is not a header: write it as {HEADER_FORM!r}.")
    return name.strip().lower(), value.strip()


async def _call(
    data: Path,
    method: MethodContract,
    messages: list[Message],
    workload: str,
    metadata: list[tuple[str, str]],
    *,
    admin: bool,
) -> None:
    mesh = RunningMesh.on(data)
    if admin:
        async with OperatorSession(mesh) as session:
            metadata.append(("authorization", f"Bearer {await session.token()}"))
    with _traced(mesh, workload):
        async with mesh.channel(workload) as channel:
            try:
                async for answer in _answers(channel, method, messages, metadata):
                    print(_as_json(answer), flush=True)
            except grpc.aio.AioRpcError as error:
                raise _as_sentence(error) from None


def _as_json(message: Message) -> str:
    """Returns a message as REST shows it: with proto field names, and with empty fields."""
    return json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        ensure_ascii=False,
    )


@contextmanager
def _traced(mesh: RunningMesh, workload: str) -> Iterator[None]:
    """Starts a trace in which the call is the first hop."""
    settings = mesh.settings(workload)
    recorder = exporter.set_up(settings, Certificates.of(settings))
    try:
        yield
    finally:
        recorder.shutdown()


async def _answers(
    channel: grpc.aio.Channel,
    method: MethodContract,
    messages: list[Message],
    metadata: list[tuple[str, str]],
) -> AsyncIterator[Message]:
    shape = f"{_word(method.client_streaming)}_{_word(method.server_streaming)}"
    request_class, response_class = method.request_class, method.response_class
    invoke = getattr(channel, shape)(method.path, request_class.SerializeToString, response_class.FromString)
    running: Any = invoke(iter(messages) if method.client_streaming else messages[0], metadata=metadata)
    if method.server_streaming:
        async for answer in running:
            yield answer
    else:
        yield await running


def _word(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _messages(method: MethodContract, text: str) -> list[Message]:
    """Returns the request or, for a stream, each of several JSON values in order."""
    text = sys.stdin.read() if text == "-" else text
    try:
        values = list(_values(text))
        messages = [json_format.ParseDict(_object(value), method.request_class()) for value in values]
    except (ValueError, TypeError, json_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise OperatorError(
            f"The request is not a valid {method.descriptor.input_type.name}: {reason}"
        ) from None
    if len(messages) != 1 and not method.client_streaming:
        raise OperatorError(f"{method.name} takes one request, not {len(messages)}.")
    return messages


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{json.dumps(value)} is not a JSON object.")
    return value


def _values(text: str) -> Iterator[Any]:
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].lstrip()


def _as_sentence(error: grpc.aio.AioRpcError) -> OperatorError:
    failure = from_rpc(error)
    lines = [f"{error.code().name} {failure.reason}: {status_of(error).message}"]
    lines += [f"  {name}: {value}" for name, value in failure.metadata.items()]
    lines += [f"  {field}: {description}" for field, description in failure.violations]
    lines += [f"  trace: {value!s}" for key, value in error.trailing_metadata() or () if key == "x-trace-id"]
    return OperatorError("\n".join(lines))
