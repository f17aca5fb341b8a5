"""Revocations: the sessions that have ended while their tokens may still be valid."""

import time
from collections import OrderedDict
from collections.abc import Iterable

# Longer than the life of any access token, so that a process that starts now knows every revocation that matters.
REMEMBERED_SECONDS = 900.0


class Revocations:
    """Sessions that have ended while their tokens may still be valid. Times are Unix seconds."""

    def __init__(self) -> None:
        # In order of arrival, which is the order in which they are forgotten.
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._users: OrderedDict[str, float] = OrderedDict()

    def revoke(self, user_id: str, session_ids: Iterable[str], revoked_at: float) -> None:
        """Ends sessions of a user; without `session_ids`, all that began before `revoked_at`."""
        sessions = tuple(session_ids)
        for session_id in sessions:
            _put_last(self._sessions, session_id, revoked_at)
        if not sessions:
            _put_last(self._users, user_id, max(revoked_at, self._users.get(user_id, 0.0)))
        oldest = time.time() - REMEMBERED_SECONDS
        _forget(self._sessions, oldest)
        _forget(self._users, oldest)

    def covers(self, user_id: str, session_id: str, issued_at: float) -> bool:
        """Whether a token was revoked. `iat` has whole seconds, so a token of the same second counts as later."""
        if session_id in self._sessions:
            return True
        revoked_at = self._users.get(user_id)
        return revoked_at is not None and issued_at < int(revoked_at)


def _put_last(revoked: OrderedDict[str, float], key: str, at: float) -> None:
    revoked[key] = at
    revoked.move_to_end(key)


def _forget(revoked: OrderedDict[str, float], oldest: float) -> None:
    """Removes old entries from the front, so that a revocation costs the same regardless of their number."""
    while revoked and revoked[next(iter(revoked))] <= oldest:
        revoked.popitem(last=False)
