"""`meshctl call`: any RPC by its name, with JSON, over mTLS: past the edge, as a workload of the mesh."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import Message

from chassis import contract
from chassis.channels import MeshChannel
from chassis.contract import MethodContract
from chassis.errors import from_rpc, status_of
from chassis.settings import Settings
from meshctl import control
from meshctl.failure import OperatorError
from meshctl.folder import MeshFolder
from meshctl.operate import Data
from meshctl.options import DEFAULT_FOLDER
from meshctl.session import EdgeSession

HEADER_FORM = "NAME: VALUE"


def call(
    method: Annotated[
        str, typer.Argument(help="package.Service/Method, or Service/Method, or Method where only one fits.")
    ] = "",
    request: Annotated[
        str, typer.Argument(help="The request as JSON; - reads it from standard input, several for a stream.")
    ] = "{}",
    as_: Annotated[str, typer.Option("--as", help="The workload whose certificate is shown.")] = "developer",
    admin: Annotated[bool, typer.Option("--admin", help="Call in the administrator's name.")] = False,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar=HEADER_FORM, help="Metadata of the call.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the RPCs, or those that hold METHOD.")] = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Call an RPC of the running mesh. Exit code 1 when it answers an error."""
    if list_ or not method:
        print("\n".join(line for line in _listed() if method.lower() in line.lower()))
        return
    found = _find(method)
    metadata = [_header(text) for text in header or []]
    asyncio.run(_call(MeshFolder(data.resolve()), found, request, as_, metadata, admin=admin))


def _listed() -> Iterator[str]:
    for method in contract.platform():
        answers = "stream " if method.server_streaming else ""
        takes = "stream " if method.client_streaming else ""
        request, response = method.descriptor.input_type.name, method.descriptor.output_type.name
        yield f"{method.path[1:]}({takes}{request}) → {answers}{response}"


def _find(name: str) -> MethodContract:
    wanted = name.strip("/")
    found = [
        method
        for method in contract.platform()
        if method.path[1:] == wanted or method.path.endswith((f"/{wanted}", f".{wanted}"))
    ]
    if len(found) != 1:
        known = ", ".join(method.path[1:] for method in found) or "see `meshctl call --list`"
        raise OperatorError(f"{name!r} names {len(found) or 'no'} RPCs: {known}.")
    return found[0]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise OperatorError(f"{text!r} is no header: write it as {HEADER_FORM!r}.")
    return name.strip().lower(), value.strip()


async def _call(
    folder: MeshFolder,
    method: MethodContract,
    request: str,
    workload: str,
    metadata: list[tuple[str, str]],
    *,
    admin: bool,
) -> None:
    messages = _messages(method, request)
    if admin:
        async with EdgeSession.of(folder.root) as session:
            metadata.append(("authorization", f"Bearer {await session.token()}"))
    settings = Settings(
        service=workload,
        tls_directory=str(folder.certificates),
        targets=control.ask(folder.control, {"command": "wiring"})["targets"],
    )
    async with MeshChannel(settings) as channel:
        try:
            async for answer in _answers(channel, method, messages, metadata):
                print(json_format.MessageToJson(answer, preserving_proto_field_name=True, ensure_ascii=False))
        except grpc.aio.AioRpcError as error:
            raise _as_sentence(error) from None


async def _answers(
    channel: MeshChannel, method: MethodContract, messages: list[Message], metadata: list[tuple[str, str]]
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
    """The request, or each of several JSON values one after the other for a stream."""
    text = sys.stdin.read() if text == "-" else text
    try:
        values = list(_values(text))
        messages = [json_format.ParseDict(value, method.request_class()) for value in values]
    except (ValueError, json_format.ParseError) as error:
        raise OperatorError(f"This is no {method.descriptor.input_type.name}: {error}") from None
    if len(messages) != 1 and not method.client_streaming:
        raise OperatorError(f"{method.name} takes one request, not {len(messages)}.")
    return messages


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
    return OperatorError("\n".join(lines))
