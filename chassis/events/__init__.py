"""Events between services: from the outbox to the broker, and from there to the handlers of subscriptions."""

from chassis.events import dead_letters, inbox, maintenance, permissions, streams, wakeup
from chassis.events.broker import Broker
from chassis.events.consumer import Consumer
from chassis.events.delivery import Envelope, Policy
from chassis.events.live import Live
from chassis.events.relay import Relay
from chassis.events.revocations import RevocationFeed
from chassis.events.transaction import Handle

__all__ = [
    "Broker",
    "Consumer",
    "Envelope",
    "Handle",
    "Live",
    "Policy",
    "Relay",
    "RevocationFeed",
    "dead_letters",
    "inbox",
    "maintenance",
    "permissions",
    "streams",
    "wakeup",
]
