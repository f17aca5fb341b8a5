"""Derives everything in `gen/` and `docs/reference/` from the contracts in `proto/`."""
