"""Passwords: Argon2id in separate threads for each purpose, with limits on failed attempts."""

from dataclasses import dataclass
from typing import Self

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chassis.core import PermissionDenied
from chassis.data import Row
from services.identity.hashing import HashingPool
from services.identity.login_limits import LoginLimits
from services.identity.settings import IdentitySettings

# OWASP's parameters for Argon2id: 19 MiB, two passes, one lane.
HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
# The hash that an attempt on an unknown account is checked against, so that it takes as long as any other.
NOBODYS_HASH = HASHER.hash("the password of nobody")


class Passwords:
    """Hashes and checks passwords in one pool. All methods raise ResourceExhausted OVERLOADED when it is full."""

    def __init__(self, pool: HashingPool, limits: LoginLimits) -> None:
        self._pool = pool
        self._limits = limits

    async def hash(self, password: str, *, address: str) -> str:
        """Returns the hash to store: parameters, salt and digest as text."""
        async with self._pool.turn(address) as in_thread:
            hashed: str = await in_thread(HASHER.hash, password)
        return hashed

    async def check(self, password: str, password_hash: str | None, *, account: str, address: str) -> bool:
        """Whether the password is the account's; a hash of None stands for an unknown account and never matches.

        Raises ResourceExhausted RATE_LIMITED after too many failures for the account from the address, or from
        the address. The limits are checked when the attempt gets its thread, so that at most one attempt per thread
        exceeds them.
        """
        async with self._pool.turn(address) as in_thread:
            await self._limits.admit(account, address)
            right = await in_thread(_matches, password_hash or NOBODYS_HASH, password)
            if right and password_hash is not None:
                return True
            await self._limits.count_failure(account, address)
            return False

    async def confirm(self, password: str, account: Row, *, address: str) -> None:
        """Checks that the signed-in caller also knows the password of `account` (`email`, `password_hash`).

        Raises PermissionDenied PASSWORD_INCORRECT and the errors of `check`.
        """
        if not await self.check(password, account.password_hash, account=account.email, address=address):
            raise password_incorrect()


@dataclass(frozen=True, slots=True)
class PasswordPools:
    """A pool for each purpose, so that a rush on one does not slow down the others."""

    registration: Passwords
    login: Passwords
    change: Passwords

    @classmethod
    def of(cls, settings: IdentitySettings) -> Self:
        """The pools that the settings describe; they share their counts of failures."""
        limits = LoginLimits.of(settings)

        def pool(threads: int) -> Passwords:
            return Passwords(HashingPool(threads, threads * settings.password_queue), limits)

        return cls(
            registration=pool(settings.registration_threads),
            login=pool(settings.login_threads),
            change=pool(settings.password_change_threads),
        )


def password_incorrect() -> PermissionDenied:
    """The error for a current password that is wrong."""
    return PermissionDenied("PASSWORD_INCORRECT", "The current password is wrong.")


def outdated(password_hash: str) -> bool:
    """Whether a hash was made with parameters other than the current ones."""
    return HASHER.check_needs_rehash(password_hash)


def _matches(password_hash: str, password: str) -> bool:
    try:
        return HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
