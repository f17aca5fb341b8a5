"""What must exist before the first call: a key that signs, and an administrator who can create others."""

import logging

import psycopg
from sqlalchemy.exc import OperationalError

from chassis.core import uuid7
from chassis.data import Database
from chassis.service import StartError
from services.identity import repository, user_events
from services.identity.model import ADMIN, User, normal_email
from services.identity.passwords import Passwords
from services.identity.settings import IdentitySettings
from services.identity.signing_keys import KeyRing

_log = logging.getLogger(__name__)


async def prepare(
    database: Database, keys: KeyRing, passwords: Passwords, settings: IdentitySettings
) -> None:
    """Makes sure that both exist. Raises StartError when the database cannot be reached."""
    await database.open()
    try:
        await keys.refresh()
        await ensure_administrator(database, passwords, settings)
    except (psycopg.OperationalError, OperationalError):
        raise StartError(
            "its database cannot be reached; check PROTOMESH_DATABASE_URL and that PostgreSQL is running."
        ) from None


async def ensure_administrator(database: Database, passwords: Passwords, settings: IdentitySettings) -> None:
    """Creates the administrator that the settings name unless the email address is taken."""
    email = normal_email(settings.bootstrap_admin_email)
    if not email or await database.one(repository.CREDENTIALS_BY_EMAIL, email=email):
        return
    password_hash = await passwords.hash(settings.bootstrap_admin_password.get_secret_value(), address="")
    user = User.register(uuid7(), settings.bootstrap_admin_username, email, password_hash, role=ADMIN)
    async with database.unit_of_work() as work:
        # Another replica may do the same at the same time.
        if await repository.insert_user_once(work, user):
            work.publish(user_events.registered(user), version=user.version)
            _log.info("The first administrator was created.")
