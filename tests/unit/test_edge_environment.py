"""The environment that Envoy gets."""

import sys

import pytest

from meshctl.edge import rendering

RSEQ = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}


@pytest.mark.skipif(sys.platform != "linux", reason="restartable sequences are Linux's")
@pytest.mark.parametrize(
    ("kernel", "given"),
    [("5.10.0-26-amd64", RSEQ), ("6.18.44", RSEQ), ("6.19.0", {}), ("6.19-rc1", {}), ("7.0.1-generic", {})],
)
def test_envoys_allocator_gets_restartable_sequences_where_linux_keeps_them_whole(
    monkeypatch: pytest.MonkeyPatch, kernel: str, given: dict[str, str]
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert rendering.environment(kernel) == given


def test_what_the_operator_tunes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    assert rendering.environment("6.1.0") == {}
