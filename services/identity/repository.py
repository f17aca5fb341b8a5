"""All SQL of identity."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Uuid, any_, bindparam, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute

from chassis.core import AlreadyExists, NotFound
from chassis.data import Listing, Prepared, Query, Refusal, Refusals, UnitOfWork
from services.identity.model import ADMIN, RefreshToken, Session, SigningKey, User, now

_Columns = Sequence[InstrumentedAttribute[Any]]
_PROFILE: _Columns = (User.id, User.username, User.email, User.first_name, User.last_name, User.version)
_ACCOUNT: _Columns = (*_PROFILE, User.role, User.disabled_at, User.created_at, User.updated_at)
_CREDENTIALS: _Columns = (User.id, User.email, User.password_hash)
_REFERENCE: _Columns = (User.id, User.username, User.disabled_at)
_PUBLIC: _Columns = (User.id, User.username, User.first_name, User.last_name)
_KEY: _Columns = (SigningKey.id, SigningKey.public_key, SigningKey.private_key, SigningKey.signs_from)

# Callers see themselves, and everyone only with the permission, which the servicer checks.
_VISIBLE = or_(bindparam("sees_all", type_=Boolean), User.id == bindparam("caller_id"))
PROFILE = Query(select(*_PROFILE).where(User.id == bindparam("id"), _VISIBLE))
ACCOUNT = Query(select(*_ACCOUNT).where(User.id == bindparam("id")))
CREDENTIALS = Query(select(*_CREDENTIALS).where(User.id == bindparam("id")))
CREDENTIALS_BY_EMAIL = Query(select(*_CREDENTIALS).where(User.email == bindparam("email")))
_NAMED = User.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
REFERENCES = Query(select(*_REFERENCE).where(_NAMED))
PUBLIC_PROFILES = Query(select(*_PUBLIC).where(_NAMED))

# The lock makes a new session wait for a concurrent revocation and then check the account again.
_ACCOUNT_TO_SIGN_IN = (
    select(User.id, User.role)
    .where(
        User.id == bindparam("user_id"),
        User.password_hash == bindparam("password_hash"),
        User.disabled_at.is_(None),
    )
    .with_for_update()
    .cte("account")
)
_STARTED_AT = bindparam("started_at", type_=Session.created_at.type)
_NEW_SESSION = insert(Session).from_select(
    ["id", "user_id", "created_at", "expires_at"],
    select(
        bindparam("session_id", type_=Uuid),
        _ACCOUNT_TO_SIGN_IN.c.id,
        _STARTED_AT,
        bindparam("session_expires_at", type_=Session.expires_at.type),
    ),
)
_FIRST_TOKEN = insert(RefreshToken).from_select(
    ["id", "session_id", "token_hash", "created_at", "expires_at"],
    select(
        bindparam("token_id", type_=Uuid),
        bindparam("session_id", type_=Uuid),
        bindparam("token_hash", type_=RefreshToken.token_hash.type),
        _STARTED_AT,
        bindparam("token_expires_at", type_=RefreshToken.expires_at.type),
    ).select_from(_ACCOUNT_TO_SIGN_IN),
)
START_SESSION = Query(
    select(_ACCOUNT_TO_SIGN_IN.c.role).add_cte(_NEW_SESSION.cte("session"), _FIRST_TOKEN.cte("token"))
)

# The user's version does not change: only the storage of the same password does.
RENEW_HASH = Prepared(
    update(User)
    .where(User.id == bindparam("user_id"), User.password_hash == bindparam("checked"))
    .values(password_hash=bindparam("renewed"))
)

_PUBLISHED = or_(SigningKey.expires_at.is_(None), SigningKey.expires_at > func.now())
PUBLISHED_KEYS = Query(select(*_KEY).where(_PUBLISHED).order_by(SigningKey.signs_from.desc()))

_SEARCHED = func.concat_ws(" ", User.username, User.email, User.first_name, User.last_name)
ACCOUNTS = Listing(
    select(*_ACCOUNT),
    filters={
        "role": User.role == bindparam("role"),
        "search": _SEARCHED.ilike(bindparam("search"), escape="\\"),
    },
    order_by=(User.created_at.desc(), User.id.desc()),
)

# The database decides which of two concurrent writers gets a name.
UNIQUE_NAMES = Refusals(
    {
        "users_email_key": Refusal(AlreadyExists, "EMAIL_TAKEN", "Another account has this email address."),
        "users_username_key": Refusal(AlreadyExists, "USERNAME_TAKEN", "Another account has this username."),
    }
)


def user_not_found() -> NotFound:
    """The error both for a user that does not exist and for one that the caller may not see."""
    return NotFound("USER_NOT_FOUND", "The user does not exist.")


async def lock_user(work: UnitOfWork, id: UUID) -> User:
    """Returns the user, locked until the transaction ends. Raises NotFound USER_NOT_FOUND."""
    user = await work.get(User, id, for_update=True)
    if user is None:
        raise user_not_found()
    return user


async def lock_administrators(work: UnitOfWork) -> Sequence[User]:
    """The administrators that can sign in, locked until the transaction ends, so the last two cannot both go."""
    administrators = select(User).where(User.role == ADMIN, User.disabled_at.is_(None)).order_by(User.id)
    return (await work.execute(administrators.with_for_update())).scalars().all()


async def insert_user_once(work: UnitOfWork, user: User) -> bool:
    """Inserts a user unless its email address or username is taken; returns whether it was inserted."""
    values = {column.key: getattr(user, column.key) for column in User.__table__.columns}
    statement = insert(User).values({**values, "version": 1}).on_conflict_do_nothing().returning(User.id)
    return (await work.execute(statement)).first() is not None


async def lock_refresh_token(work: UnitOfWork, token_hash: bytes) -> RefreshToken | None:
    """The refresh token with this hash, locked until the transaction ends, so that one of two uses comes first."""
    statement = select(RefreshToken).where(RefreshToken.token_hash == token_hash).with_for_update()
    return (await work.execute(statement)).scalar_one_or_none()


async def revoke_sessions(
    work: UnitOfWork, user_id: UUID, *, only: UUID | None = None, but: UUID | None = None
) -> Sequence[UUID]:
    """Ends sessions of a user (all of them, one of them, or all but one); returns those it ended."""
    statement = update(Session).where(Session.user_id == user_id, Session.revoked_at.is_(None))
    if only is not None:
        statement = statement.where(Session.id == only)
    if but is not None:
        statement = statement.where(Session.id != but)
    ended = await work.execute(statement.values(revoked_at=now()).returning(Session.id))
    return ended.scalars().all()


async def delete_expired_sessions(work: UnitOfWork, limit: int) -> int:
    """Deletes expired sessions with their refresh tokens; returns how many sessions."""
    expired = (
        select(Session.id).where(Session.expires_at < now()).limit(limit).with_for_update(skip_locked=True)
    )
    deleted = await work.execute(delete(Session).where(Session.id.in_(expired)).returning(Session.id))
    return len(deleted.all())


async def lock_signing_keys(work: UnitOfWork) -> Sequence[SigningKey]:
    """All keys that are published. Locks the table, so transactions take turns even when there is no row yet."""
    await work.execute(text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"))
    return (await work.execute(select(SigningKey).where(_PUBLISHED))).scalars().all()
