"""Servers that a service shares with others, besides its database and the broker: Valkey."""

from chassis.outside.valkey import Valkey

__all__ = ["Valkey"]
