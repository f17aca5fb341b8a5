"""Calls as an attacker inside the network makes them, and how they are refused."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from chassis.contract import MethodContract
from chassis.core import reason_of


def rpc_id(method: MethodContract) -> str:
    return method.path.rpartition(".")[2]


async def refusal(
    channel: Any,
    method: MethodContract,
    token: str = "",
    request: Message | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """How a call is refused, as (code, reason); ("OK", "") when it is not."""
    shape = channel.unary_stream if method.server_streaming else channel.unary_unary
    invoke = shape(method.path, method.request_class.SerializeToString, method.response_class.FromString)
    headers = [*(metadata or {}).items(), *([("authorization", f"Bearer {token}")] if token else [])]
    call = invoke(request or method.request_class(), timeout=10, metadata=headers)
    try:
        if method.server_streaming:
            await anext(aiter(call))
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, reason_of(error)
    return "OK", ""
