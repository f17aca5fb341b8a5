"""Caching: which state of a resource an answer shows, and how long browsers and CDNs may keep it."""

import hashlib
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

from chassis.contract.methods import MethodContract
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage

# The field of a resource that holds its etag, and of a request that takes it back.
ETAG = "etag"


def stage(contract: MethodContract) -> Stage | None:
    """The stage of an RPC whose answer has an etag of its own or may be cached; None for others.

    What may not be cached is marked `no-store` by the edge.
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
    """What reads the header from a resource. What a client read in either place is what it may send back."""
    moving = [
        field.name
        for field in resource.fields
        if field.GetOptions().Extensions[options_pb2.unversioned] and not field.is_repeated
    ]

    def own_tag(answer: Any) -> str:
        # An answer without one shows no state that a client could hold.
        return f'"{answer.etag}"' if answer.etag else ""

    def own_tag_of_what_moves(answer: Any) -> str:
        if not answer.etag:
            return ""
        # `if-none-match` asks for all that is shown, stock too; `if-match` looks at what stands before the dot.
        shown = repr([getattr(answer, name) for name in moving]).encode()
        answer.etag = f"{answer.etag}.{hashlib.blake2b(shown, digest_size=6).hexdigest()}"
        return own_tag(answer)

    return own_tag_of_what_moves if moving else own_tag


def _tag_of_content(answer: Message) -> str:
    """A weak entity tag: the same content always has the same one, whatever JSON is made of it."""
    content = answer.SerializeToString(deterministic=True)
    return f'W/"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
