"""Traversals of descriptors that several readers of the contracts share."""

import functools
from collections.abc import Sequence

from google.protobuf.descriptor import Descriptor


@functools.cache
def reachable(message: Descriptor) -> Sequence[Descriptor]:
    """A message and every message type that it can contain, each once, itself first."""
    found = {message.full_name: message}
    todo = [message]
    while todo:
        for field in todo.pop().fields:
            inner = field.message_type
            if inner is not None and inner.full_name not in found:
                found[inner.full_name] = inner
                todo.append(inner)
    return tuple(found.values())
