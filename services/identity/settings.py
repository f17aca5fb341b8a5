"""Settings of identity, in addition to those of every service."""

from datetime import timedelta

from pydantic import Field, SecretStr

from chassis.core import ValkeySettings

ACCESS_TOKEN_LIFE = timedelta(minutes=10)
SESSION_LIFE = timedelta(days=30)
REFRESH_TOKEN_LIFE = timedelta(days=14)


class IdentitySettings(ValkeySettings):
    """Settings of identity."""

    key_encryption_secret: SecretStr = Field(
        min_length=32,
        description="Secret of at least 32 characters that encrypts signing keys in the database; the same in "
        "every replica. Required by identity.",
    )
    signing_key_days: int = Field(
        30,
        ge=1,
        description="Days after which a new key signs access tokens; identity creates the key itself.",
    )
    key_publication_seconds: int = Field(
        900,
        ge=1,
        description="Seconds between the publication of a signing key and its first signature; longer than any "
        "verifier caches the key set.",
    )
    login_threads: int = Field(
        2,
        ge=1,
        le=64,
        description="Maximum number of logins that a process checks at once; each uses 19 MiB and one core.",
    )
    registration_threads: int = Field(
        1,
        ge=1,
        le=64,
        description="Maximum number of registrations that a process hashes at once; each costs as much as a login.",
    )
    password_change_threads: int = Field(
        1, ge=1, le=64, description="Maximum number of password changes that a process handles at once."
    )
    password_queue: int = Field(
        128,
        ge=0,
        description="Calls that may wait for each of these threads, at most half of them from one address; more "
        "calls fail at once with RESOURCE_EXHAUSTED.",
    )
    login_limits_per_account: str = Field(
        "5/minute; 15/10 minutes; 40/hour",
        description="Failed logins of one account from one address before further attempts must wait.",
    )
    login_limits_per_address: str = Field(
        "20/minute; 100/10 minutes; 400/hour",
        description="Failed logins from one address, whatever the account, before further attempts must wait.",
    )
    bootstrap_admin_email: str = Field(
        "",
        description="Email address of an administrator that identity creates at startup unless the address is "
        "taken; unset: no administrator is created.",
    )
    bootstrap_admin_username: str = Field("admin", description="Username of that administrator.")
    bootstrap_admin_password: SecretStr = Field(
        SecretStr(""), description="First password of that administrator."
    )
