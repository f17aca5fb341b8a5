"""What the supervisor refuses or cannot do, as one sentence for the person at the terminal."""


class OperatorError(Exception):
    """Its text is one clear sentence: what is wrong and what to do. The command exits with code 1."""
