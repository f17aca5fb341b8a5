"""Counts requests for the edge, whichever of its replicas they came through."""
