"""Revocations: the sessions that have ended while their tokens could still be alive."""

import time
from collections.abc import Callable, Iterable

# Longer than any access token lives, so that a process that starts now knows every revocation that matters.
REMEMBERED_SECONDS = 900.0


class Revocations:
    """Sessions that have ended while their tokens could still be alive. Times are Unix seconds."""

    def __init__(self) -> None:
        self._sessions: dict[str, float] = {}
        self._users: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []

    def on_revoked(self, listener: Callable[[str], None]) -> None:
        """Has a function called with the user's id at every revocation."""
        self._listeners.append(listener)

    def revoke(self, user_id: str, session_ids: Iterable[str], revoked_at: float) -> None:
        """Ends sessions of a user; all that began before `revoked_at` when none is named."""
        self._expire()
        sessions = tuple(session_ids)
        for session_id in sessions:
            self._sessions[session_id] = revoked_at
        if not sessions:
            self._users[user_id] = max(revoked_at, self._users.get(user_id, 0.0))
        for listener in self._listeners:
            listener(user_id)

    def covers(self, user_id: str, session_id: str, issued_at: float) -> bool:
        """Whether a token was revoked. `iat` has whole seconds, so a token of the same second counts as later."""
        if session_id and session_id in self._sessions:
            return True
        revoked_at = self._users.get(user_id)
        return revoked_at is not None and issued_at < int(revoked_at)

    def _expire(self) -> None:
        oldest = time.time() - REMEMBERED_SECONDS
        self._sessions = {key: at for key, at in self._sessions.items() if at > oldest}
        self._users = {key: at for key, at in self._users.items() if at > oldest}
