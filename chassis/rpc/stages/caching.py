"""Caching: headers for the state of a resource that an answer shows, and for how long browsers and CDNs may keep it."""

import hashlib
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

from chassis.contract.methods import MethodContract
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage

# The field that holds the etag in a resource, and in a request that sends it back.
ETAG = "etag"


def stage(contract: MethodContract) -> Stage | None:
    """Returns the stage of an RPC whose answer has its own etag or may be cached; None for others.

    The edge marks answers that may not be cached with `no-store`.
    """
    if contract.server_streaming:
        return None
    answer = contract.descriptor.output_type
    if ETAG in answer.fields_by_name:
        return _Caching(contract.cache_seconds, _own_tag(answer))
    return None if contract.cache_seconds is None else _Caching(contract.cache_seconds, _tag_of_content)


class _Caching:
    def __init__(self, seconds: int | None, tag: Callable[[Any], str]) -> None:
        self._directive = None if seconds is None else f"public, max-age={seconds}"
        self._tag = tag

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        answer = await proceed(request, call)
        if answer is not None:
            if self._directive:
                call.set_header("cache-control", self._directive)
            if tag := self._tag(answer):
                call.set_header(ETAG, tag)
        return answer


def _own_tag(resource: Descriptor) -> Callable[[Any], str]:
    """Returns the function that reads the header from a resource. Clients may send back the header or the field."""
    moving = [
        field.name
        for field in resource.fields
        if field.GetOptions().Extensions[options_pb2.unversioned] and not field.is_repeated
    ]

    def own_tag(answer: Any) -> str:
        # An answer without an etag shows no state that a client could refer to.
        return f'"{answer.etag}"' if answer.etag else ""

    def own_tag_of_what_moves(answer: Any) -> str:
        if not answer.etag:
            return ""
        # `if-none-match` compares everything that is shown, including stock; `if-match` only the part before the dot.
        shown = repr([getattr(answer, name) for name in moving]).encode()
        answer.etag = f"{answer.etag}.{hashlib.blake2b(shown, digest_size=6).hexdigest()}"
        return own_tag(answer)

    return own_tag_of_what_moves if moving else own_tag


def _tag_of_content(answer: Message) -> str:
    """Returns a weak entity tag: the same content always has the same tag, however its JSON is written."""
    content = answer.SerializeToString(deterministic=True)
    return f'W/"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
