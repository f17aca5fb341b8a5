"""The public keys that verify access tokens: published by identity, kept up to date in the background."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from joserfc.jwk import ECKey

from chassis.core import errors
from chassis.core.tasks import checkpoint, wait_up_to

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0
# An unknown key may come from a forged token, and forged tokens must not each cause a call to identity.
UNKNOWN_KEY_SECONDS = 5.0
# Shorter than any call's deadline, so that a caller who waits for the first keys still gets the real error.
FETCH_SECONDS = 1.0
RETRY_SECONDS = 1.0
# Until the first keys are there, since services start together and the first callers come as soon as they can.
FIRST_RETRY_SECONDS = 0.1

FetchKeys = Callable[[], Awaitable[Iterable[Mapping[str, Any]]]]


class KeySource(Protocol):
    """The source of the public keys that verify tokens."""

    async def key(self, kid: str) -> ECKey | None:
        """The key with this id, or None when there is none. Raises Unavailable when that cannot be determined now."""

    async def run(self) -> None:
        """Keeps the keys up to date until cancelled; returns at once when there is nothing to do."""


class FetchedKeys:
    """Identity's published keys: fetched by `run`, one fetch at a time, and never as part of a call.

    While identity is not reachable, known keys stay valid, and a request for any other key fails at once.
    """

    def __init__(self, fetch: FetchKeys) -> None:
        self._fetch = fetch
        self._keys: dict[str, ECKey] = {}
        self._fetched_at = float("-inf")
        self._away = False
        self._wanted = asyncio.Event()
        # Set and replaced at the end of each fetch.
        self._fetched = asyncio.Event()

    async def key(self, kid: str) -> ECKey | None:
        """The key with this id; waits for a fetch when it is unknown. Raises Unavailable when that fetch fails."""
        if kid not in self._keys and not self._fresh():
            if not self._away:
                self._wanted.set()
                await self._fetched.wait()
            if self._away:
                raise errors.unavailable()
        return self._keys.get(kid)

    def _fresh(self) -> bool:
        return time.monotonic() - self._fetched_at < UNKNOWN_KEY_SECONDS

    async def run(self) -> None:
        """Fetches the keys now, every five minutes, when an unknown key is requested, and shortly after a failure."""
        while True:
            checkpoint()
            await self._refresh()
            await wait_up_to(self._wanted, self._pause())

    def _pause(self) -> float:
        if not self._away:
            return REFRESH_SECONDS
        return RETRY_SECONDS if self._keys else FIRST_RETRY_SECONDS

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                published = await self._fetch()
            self._keys = _import(published)
        except Exception as error:  # noqa: BLE001 (whatever it is, the known keys stay valid)
            if not self._away:
                logger.warning(
                    "The keys that verify access tokens cannot be fetched; known keys stay in use: %s",
                    type(error).__name__,
                )
            self._away = True
        else:
            self._away = False
            self._fetched_at = time.monotonic()
        self._wanted.clear()
        done, self._fetched = self._fetched, asyncio.Event()
        done.set()


def _import(published: Iterable[Mapping[str, Any]]) -> dict[str, ECKey]:
    return {key["kid"]: ECKey.import_key(dict(key)) for key in published if _is_ours(key)}


def _is_ours(key: Mapping[str, Any]) -> bool:
    return key.get("kty") == "EC" and key.get("crv") == "P-256" and bool(key.get("kid"))
