"""Identifiers: time-ordered UUIDs (RFC 9562, version 7)."""

import os
import threading
import time
import uuid

_COUNTER_BITS = 12
_VERSION_AND_VARIANT = (7 << 76) | (2 << 62)

_lock = threading.Lock()
_last_tick = 0


def uuid7() -> uuid.UUID:
    """A UUID ordered by creation: strictly within this process, to the millisecond across processes."""
    tick = _next_tick()
    milliseconds, counter = tick >> _COUNTER_BITS, tick & ((1 << _COUNTER_BITS) - 1)
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return uuid.UUID(int=_VERSION_AND_VARIANT | milliseconds << 80 | counter << 64 | random)


def identifier(value: uuid.UUID | str) -> uuid.UUID:
    """An identifier as columns hold it, from its text in a message. Raises ValueError for text that is not a UUID."""
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def created_at(value: uuid.UUID) -> float:
    """When a version 7 UUID was created, in Unix seconds."""
    return (value.int >> 80) / 1000


def _next_tick() -> int:
    """Milliseconds and a 12-bit fraction; never the same value twice, even when the clock steps back."""
    global _last_tick  # noqa: PLW0603 (one clock for the process)
    with _lock:
        _last_tick = max((time.time_ns() << _COUNTER_BITS) // 1_000_000, _last_tick + 1)
        return _last_tick
