"""Rows ↔ messages, by name: `Mapper` fills a resource from a row, `values` and `sent` read a request."""

from chassis.contract.mapping.mapper import Mapper
from chassis.contract.mapping.requests import sent, values

__all__ = ["Mapper", "sent", "values"]
