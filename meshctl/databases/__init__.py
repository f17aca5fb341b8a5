"""Databases, roles and migrations of all services."""
