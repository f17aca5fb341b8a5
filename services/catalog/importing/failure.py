"""The error that ends an import."""


class ImportFailed(Exception):
    """A sentence for the person who imports: what happened, and what to do next."""
