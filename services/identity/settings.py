"""What an operator may set for identity, besides what every service has."""

from datetime import timedelta

from pydantic import Field, SecretStr

from chassis.core import Settings

ACCESS_TOKEN_LIFE = timedelta(minutes=10)
SESSION_LIFE = timedelta(days=30)
REFRESH_TOKEN_LIFE = timedelta(days=14)


class IdentitySettings(Settings):
    """Settings of identity."""

    key_encryption_secret: SecretStr = Field(
        min_length=32,
        description="Secret of at least 32 characters that encrypts signing keys in the database; the same in "
        "every replica. Required by identity.",
    )
    signing_key_days: int = Field(
        30, ge=1, description="Days after which a new key signs access tokens; identity makes it by itself."
    )
    key_publication_seconds: int = Field(
        900,
        ge=1,
        description="Seconds between the publication of a signing key and its first signature; longer than any "
        "verifier keeps the key set.",
    )
    login_threads: int = Field(
        2,
        ge=1,
        le=64,
        description="Logins that a process checks at once; each takes 19 MiB and a core meanwhile.",
    )
    registration_threads: int = Field(
        1,
        ge=1,
        le=64,
        description="Registrations that a process hashes passwords for at once, as for logins.",
    )
    password_change_threads: int = Field(
        1, ge=1, le=64, description="Changes of a password that a process checks and hashes at once."
    )
    password_queue: int = Field(
        128,
        ge=0,
        description="Calls that wait for each of these threads, at most half of them from one address; more are "
        "refused at once with RESOURCE_EXHAUSTED.",
    )
    login_limits_per_account: str = Field(
        "5/minute; 15/10 minutes; 40/hour",
        description="Failed logins of one account from one address before further ones must wait.",
    )
    login_limits_per_address: str = Field(
        "20/minute; 100/10 minutes; 400/hour",
        description="Failed logins from one address, whatever the account, before further ones must wait.",
    )
    bootstrap_admin_email: str = Field(
        "",
        description="Email address of an administrator that identity creates at its start when nobody has it; "
        "unset: none.",
    )
    bootstrap_admin_username: str = Field("admin", description="Username of that administrator.")
    bootstrap_admin_password: SecretStr = Field(
        SecretStr(""), description="First password of that administrator."
    )
