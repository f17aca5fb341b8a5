"""The error that ends a command, as one sentence for the person at the terminal."""


class OperatorError(Exception):
    """An error whose text says in one sentence what is wrong and what to do. The command exits with code 1."""
