"""Passwords: Argon2id in a few threads of its own, with attempts counted where they are made."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chassis.core import PermissionDenied
from chassis.data import Row
from services.identity.login_limits import LoginLimits

# OWASP's figures for Argon2id: 19 MiB, two passes, one lane.
HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
# What an attempt on an unknown account is checked against, so that it takes as long as any other.
NOBODYS_HASH = HASHER.hash("the password of nobody")


class Passwords:
    """Hashes and checks passwords, `threads` at once; whoever comes later waits in line."""

    def __init__(self, threads: int, limits: LoginLimits) -> None:
        self._slots = asyncio.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._limits = limits

    async def hash(self, password: str) -> str:
        """The hash to keep: parameters, salt and digest as text."""
        async with self._slots:
            return await asyncio.get_running_loop().run_in_executor(self._pool, HASHER.hash, password)

    async def check(self, password: str, password_hash: str | None, *, account: str, address: str) -> bool:
        """Whether the password is the account's; None stands for an unknown account, for which none is right.

        Raises ResourceExhausted RATE_LIMITED after too many failures for the account from the address, or from
        the address. The limits are asked within the slot, so that at most `threads` attempts slip past together.
        """
        async with self._slots:
            await self._limits.admit(account, address)
            check = partial(_matches, password_hash or NOBODYS_HASH, password)
            right = await asyncio.get_running_loop().run_in_executor(self._pool, check)
            if right and password_hash is not None:
                return True
            await self._limits.count_failure(account, address)
            return False

    async def confirm(self, password: str, account: Row, *, address: str) -> None:
        """Checks that whoever is signed in knows the password of `account` (`email`, `password_hash`), too.

        Raises PermissionDenied PASSWORD_INCORRECT, and what `check` raises.
        """
        if not await self.check(password, account.password_hash, account=account.email, address=address):
            raise password_incorrect()


def password_incorrect() -> PermissionDenied:
    """The answer to a current password that is not the account's."""
    return PermissionDenied("PASSWORD_INCORRECT", "The current password is not right.")


def outdated(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return HASHER.check_needs_rehash(password_hash)


def _matches(password_hash: str, password: str) -> bool:
    try:
        return HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
