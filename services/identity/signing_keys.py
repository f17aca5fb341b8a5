"""The keys that sign access tokens: one for all replicas, encrypted at rest, rotated with an overlap."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.jwk import ECKey

from chassis.core import repeat, uuid7
from chassis.data import Database, Row
from services.identity import repository
from services.identity.model import SigningKey, now
from services.identity.settings import ACCESS_TOKEN_LIFE, IdentitySettings

ALGORITHM = "ES256"
CURVE = "P-256"
# Maximum age of a process's copy of the keys; far less than the time between publication and first signature.
RELOAD_SECONDS = 30.0
UNKNOWN_KEY_SECONDS = 5.0
_NONCE_BYTES = 12

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key, ready to sign."""

    kid: str
    private: ECKey
    public: dict[str, str]
    signs_from: datetime


class KeyRing:
    """The signing keys, as this process last read them."""

    def __init__(self, database: Database, settings: IdentitySettings) -> None:
        self._database = database
        self._cipher = AESGCM(_derive(settings.key_encryption_secret.get_secret_value()))
        self._period = timedelta(days=settings.signing_key_days)
        self._publication = timedelta(seconds=settings.key_publication_seconds)
        self._keys: Sequence[Key] = ()
        self._next_look_up = 0.0

    def signer(self) -> Key:
        """The key that signs now: the newest whose `signs_from` has passed."""
        moment = now()
        return max((key for key in self._keys if key.signs_from <= moment), key=_signs_from)

    def published(self) -> Sequence[Key]:
        """The keys that verifiers need: earlier ones whose tokens may be valid, the current one, and the next."""
        return self._keys

    async def key(self, kid: str) -> ECKey | None:
        """The key with this id, for identity's own checks. Reads the database for keys of another replica."""
        found = self._find(kid)
        if found is None and time.monotonic() >= self._next_look_up:
            # Forged ids must not each cause a query.
            self._next_look_up = time.monotonic() + UNKNOWN_KEY_SECONDS
            await self._load()
            found = self._find(kid)
        return found

    def _find(self, kid: str) -> ECKey | None:
        return next((key.private for key in self._keys if key.kid == kid), None)

    async def run(self) -> None:
        """Keeps the copy up to date and creates a key when the next is due, until cancelled."""
        # The known keys stay valid for longer than any outage that this process would survive.
        failure = "The signing keys could not be read, the known ones stay in use"
        await repeat(self.refresh, every=RELOAD_SECONDS, log=_log, failure=failure)

    async def refresh(self) -> None:
        """Reads the keys; creates one when there is none or when the next is due."""
        await self._load()
        if self._due(_newest(self._keys)):
            await self.rotate(early=False)

    async def rotate(self, *, early: bool = True) -> Key:
        """Creates the next key (`early`: even before it is due) unless one is waiting; returns the newest key."""
        async with self._database.unit_of_work() as work:
            keys = await repository.lock_signing_keys(work)
            newest = _newest(keys)
            # Checked again under the lock: another replica may have been faster.
            waiting = newest is not None and newest.signs_from > now()
            if not waiting and (early or self._due(newest)):
                work.add(self._successor(keys))
        await self._load()
        return max(self._keys, key=_signs_from)

    def _due(self, newest: Key | SigningKey | None) -> bool:
        return newest is None or newest.signs_from + self._period - self._publication <= now()

    def _successor(self, keys: Sequence[SigningKey]) -> SigningKey:
        moment = now()
        # The very first key signs at once: no verifier can have an older set.
        signs_from = moment + self._publication if keys else moment
        for key in keys:
            key.expires_at = key.expires_at or signs_from + ACCESS_TOKEN_LIFE + self._publication
        kid, private = uuid7(), ECKey.generate_key(CURVE)
        public = {**private.as_dict(private=False), "kid": str(kid), "alg": ALGORITHM, "use": "sig"}
        return SigningKey(
            id=kid,
            public_key=public,
            private_key=self._encrypt(kid, private.as_der(private=True)),
            created_at=moment,
            signs_from=signs_from,
        )

    async def _load(self) -> None:
        rows = await self._database.all(repository.PUBLISHED_KEYS)
        known = {key.kid: key for key in self._keys}
        self._keys = [known.get(str(row.id)) or self._read(row) for row in rows]

    def _read(self, row: Row) -> Key:
        private = ECKey.import_key(self._decrypt(row.id, bytes(row.private_key)))
        return Key(str(row.id), private, row.public_key, row.signs_from)

    def _encrypt(self, kid: UUID, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        # Bound to its row: an encrypted key that is moved to another row cannot be decrypted.
        return nonce + self._cipher.encrypt(nonce, plain, kid.bytes)

    def _decrypt(self, kid: UUID, encrypted: bytes) -> bytes:
        return self._cipher.decrypt(encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:], kid.bytes)


def _signs_from(key: Key | SigningKey) -> datetime:
    return key.signs_from


def _newest(keys: Sequence[Key] | Sequence[SigningKey]) -> Key | SigningKey | None:
    return max(keys, key=_signs_from, default=None)


def _derive(secret: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"protomesh identity signing keys").derive(secret.encode())
