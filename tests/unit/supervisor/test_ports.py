"""The ports that a mesh gives to its parts, and the one that it claims for its edge."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from meshctl.core import ports
from meshctl.core.failure import OperatorError
from meshctl.core.ports import Ports


@contextlib.contextmanager
def listening(port: int, *, shared: bool = False) -> Iterator[socket.socket]:
    """A server as all are: an address that was used before may be used again; Envoy also shares its port."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    with server:
        server.bind(("127.0.0.1", port))
        server.listen()
        yield server


def test_the_port_that_is_claimed_for_the_edge_is_not_given_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Ports() as free:
        port = free.take()
    monkeypatch.setattr(ports, "LOWEST", port)
    monkeypatch.setattr(ports, "HIGHEST", port + 1)

    with ports.claim(port), Ports() as handed_out, pytest.raises(StopIteration):
        handed_out.take()


def test_two_meshes_that_start_at_once_get_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "HIGHEST", ports.LOWEST + 100)
    with Ports() as ours, Ports() as theirs:
        assert not {ours.take() for _ in range(30)} & {theirs.take() for _ in range(30)}


def test_the_program_that_a_port_is_for_can_listen_on_it() -> None:
    with Ports() as ours, listening(ours.take()):
        pass


def test_an_edge_listens_on_the_claimed_port_and_a_second_mesh_is_refused_before_and_after() -> None:
    with Ports() as free:
        port = free.take()
    refusal = rf"^Port {port} is taken: choose another with --port\.$"
    with ports.claim(port):
        with pytest.raises(OperatorError, match=refusal):
            ports.claim(port)
        with listening(port, shared=True), pytest.raises(OperatorError, match=refusal):
            ports.claim(port)


def test_connections_that_have_ended_do_not_make_a_port_taken() -> None:
    with Ports() as free:
        port = free.take()
    with listening(port) as server, socket.create_connection(("127.0.0.1", port)):
        # Who closes first keeps the connection for a minute.
        server.accept()[0].close()
    ports.claim(port).close()


def test_a_number_that_is_not_a_port_is_one_sentence() -> None:
    with pytest.raises(
        OperatorError, match=r"^99999 is not a valid port: choose --port between 1 and 65535\.$"
    ):
        ports.claim(99999)
