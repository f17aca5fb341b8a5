"""The first administrator, without whom nobody could make another."""

import logging

from chassis.database import Database
from chassis.identifiers import uuid7
from services.identity import convert, repository
from services.identity.model import ADMIN, User, normal_email
from services.identity.passwords import Passwords
from services.identity.settings import IdentitySettings

_log = logging.getLogger(__name__)


async def ensure_administrator(database: Database, passwords: Passwords, settings: IdentitySettings) -> None:
    """Creates the administrator of the settings unless somebody has the email address."""
    email = normal_email(settings.bootstrap_admin_email)
    if not email or await database.one(repository.CREDENTIALS_BY_EMAIL, email=email):
        return
    password_hash = await passwords.hash(settings.bootstrap_admin_password.get_secret_value())
    user = User.register(uuid7(), settings.bootstrap_admin_username, email, password_hash, role=ADMIN)
    async with database.unit_of_work() as work:
        # Another replica may do the same at the same moment.
        if await repository.insert_user_once(work, user):
            work.publish(convert.user_registered(user))
            _log.info("The first administrator was created.")
