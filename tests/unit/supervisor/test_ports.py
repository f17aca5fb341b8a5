"""The ports that a mesh gives to its parts."""

import pytest

from meshctl.core import ports
from meshctl.core.ports import Ports


def test_a_promised_port_is_not_given_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    promised = Ports().take()
    monkeypatch.setattr(ports, "LOWEST", promised)
    monkeypatch.setattr(ports, "HIGHEST", promised + 40)

    handed_out = Ports(promised)

    assert promised not in {handed_out.take() for _ in range(10)}
