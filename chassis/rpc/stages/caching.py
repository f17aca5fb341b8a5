"""Cache headers: how long browsers and CDNs may keep an answer that is the same for everybody."""

import hashlib
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage


def stage(contract: MethodContract) -> Stage | None:
    """The stage of an RPC whose contract has the cache option; None for others, which the edge marks `no-store`."""
    return None if contract.cache_seconds is None else _Caching(contract.cache_seconds)


class _Caching:
    def __init__(self, seconds: int) -> None:
        self._directive = f"public, max-age={seconds}"

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        answer = await proceed(request, call)
        if answer is not None:
            call.set_header("cache-control", self._directive)
            call.set_header("etag", etag(answer.SerializeToString(deterministic=True)))
        return answer


def etag(content: bytes) -> str:
    """A weak entity tag: the same content always has the same one, whatever JSON is made of it."""
    return f'W/"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
