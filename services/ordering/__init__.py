"""Ordering: takes orders and brings each to an end."""
