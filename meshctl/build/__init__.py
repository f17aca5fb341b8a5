"""Builds everything that is derived from the contracts, scaffolds services, and runs the static checks."""
