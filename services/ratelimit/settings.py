"""Settings of the rate limiter."""

from __future__ import annotations

from pydantic import Field

from chassis.core import Settings


class RateLimitSettings(Settings):
    """The house settings, and how strictly the contracts' quotas are meant."""

    rate_limit_multiplier: int = Field(
        1,
        ge=1,
        description="Multiplies every quota of the contracts; for load tests, where all share an address.",
    )
