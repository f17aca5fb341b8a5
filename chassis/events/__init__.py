"""Events between services: from the outbox to the broker, and from there to the handlers of subscriptions."""

from chassis.events import dead_letters, inbox, relay
from chassis.events.broker import Broker
from chassis.events.consumer import Consumer
from chassis.events.delivery import Policy
from chassis.events.relay import Relay, republish
from chassis.events.revocations import RevocationFeed

__all__ = [
    "Broker",
    "Consumer",
    "Policy",
    "Relay",
    "RevocationFeed",
    "dead_letters",
    "inbox",
    "relay",
    "republish",
]
