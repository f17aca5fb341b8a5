"""Counts requests for the edge, across all its replicas."""
