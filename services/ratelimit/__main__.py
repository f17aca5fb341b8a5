"""Starts the rate limiter."""

from chassis.service import Service, run
from services.ratelimit.counters import Counters
from services.ratelimit.quotas import Quotas
from services.ratelimit.ratelimit_service import RateLimitService
from services.ratelimit.settings import RateLimitSettings


async def compose(service: Service) -> None:
    settings = service.settings
    assert isinstance(settings, RateLimitSettings)
    counters = Counters(settings.valkey_url)
    quotas = Quotas.of_contracts(settings.rate_limit_multiplier)
    service.serve("envoy.service.ratelimit.v3.RateLimitService", RateLimitService(quotas, counters))


if __name__ == "__main__":
    run("ratelimit", compose, settings=RateLimitSettings)
