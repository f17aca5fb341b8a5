"""Settings of the rate limiter."""

from __future__ import annotations

from pydantic import Field

from chassis.core import ValkeySettings


class RateLimitSettings(ValkeySettings):
    """The settings of every service, and a multiplier of the contracts' quotas."""

    rate_limit_multiplier: int = Field(
        1,
        ge=1,
        description="Multiplies every quota of the contracts; for load tests, where all callers share an address.",
    )
