"""What a check of `meshctl doctor` found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """A subject and its state, what was found, and what a person should do."""

    subject: str
    state: State
    found: str
    advice: str = ""


def judged(subject: str, found: str, *, problem: str = "", warning: str = "") -> Finding:
    """Returns a finding with the advice for a problem or a warning; neither means that all is well."""
    state: State = "problem" if problem else "warning" if warning else "ok"
    return Finding(subject, state, found, problem or warning)
