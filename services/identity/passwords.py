"""Passwords: Argon2id in threads of its own for each purpose, with attempts counted where they are made."""

from dataclasses import dataclass
from typing import Self

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chassis.core import PermissionDenied
from chassis.data import Row
from services.identity.hashing import HashingPool
from services.identity.login_limits import LoginLimits
from services.identity.settings import IdentitySettings

# OWASP's figures for Argon2id: 19 MiB, two passes, one lane.
HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
# What an attempt on an unknown account is checked against, so that it takes as long as any other.
NOBODYS_HASH = HASHER.hash("the password of nobody")


class Passwords:
    """Hashes and checks passwords in one pool. All raise ResourceExhausted OVERLOADED when that is full."""

    def __init__(self, pool: HashingPool, limits: LoginLimits) -> None:
        self._pool = pool
        self._limits = limits

    async def hash(self, password: str, *, address: str) -> str:
        """The hash to keep: parameters, salt and digest as text."""
        async with self._pool.turn(address) as in_thread:
            hashed: str = await in_thread(HASHER.hash, password)
        return hashed

    async def check(self, password: str, password_hash: str | None, *, account: str, address: str) -> bool:
        """Whether the password is the account's; None stands for an unknown account, for which none is right.

        Raises ResourceExhausted RATE_LIMITED after too many failures for the account from the address, or from
        the address. The limits are asked when it is the attempt's turn, so that at most as many as there are threads
        slip past together.
        """
        async with self._pool.turn(address) as in_thread:
            await self._limits.admit(account, address)
            right = await in_thread(_matches, password_hash or NOBODYS_HASH, password)
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


@dataclass(frozen=True, slots=True)
class PasswordPools:
    """A pool for each purpose: a rush on one leaves the others quick."""

    registration: Passwords
    login: Passwords
    change: Passwords

    @classmethod
    def of(cls, settings: IdentitySettings) -> Self:
        """The pools that the settings describe, which count failures together."""
        limits = LoginLimits.of(settings)

        def pool(threads: int) -> Passwords:
            return Passwords(HashingPool(threads, threads * settings.password_queue), limits)

        return cls(
            registration=pool(settings.registration_threads),
            login=pool(settings.login_threads),
            change=pool(settings.password_change_threads),
        )


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
