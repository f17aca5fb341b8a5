"""A NATS and a Valkey that a URL names serve one mesh."""

from pathlib import Path

import nats
import pytest

from meshctl.core.failure import OperatorError
from meshctl.mesh import claims
from tests import parts


async def test_a_nats_of_another_mesh_is_refused(tmp_path: Path) -> None:
    async with parts.running_nats(tmp_path) as url:
        for _ in range(2):
            await claims.claim_nats(url, "ours")
        with pytest.raises(OperatorError, match=r"^This NATS serves another mesh: use another one"):
            await claims.claim_nats(url, "theirs")


async def test_a_nats_with_streams_that_nobody_marked_is_refused(tmp_path: Path) -> None:
    async with parts.running_nats(tmp_path) as url:
        client = await nats.connect(url)
        await client.jetstream().add_stream(name="ORDERING", subjects=["theirs.>"])
        with pytest.raises(OperatorError, match=r"^NATS has a stream ORDERING that this mesh did not make"):
            await claims.claim_nats(url, "ours")
        await client.close()


async def test_a_nats_that_refuses_the_user_is_one_sentence(tmp_path: Path) -> None:
    async with parts.running_nats(tmp_path) as url:
        with pytest.raises(OperatorError, match=r"^NATS cannot be used: .*Authorization"):
            await claims.claim_nats(url.replace("operator:", "operator:not"), "ours")


async def test_a_valkey_of_another_mesh_is_refused(tmp_path: Path) -> None:
    async with parts.running_valkey(tmp_path) as url:
        for _ in range(2):
            await claims.claim_valkey(url, "ours")
        with pytest.raises(OperatorError, match=r"^This Valkey serves another mesh: use another one"):
            await claims.claim_valkey(url, "theirs")
        with pytest.raises(OperatorError, match=r"^Valkey cannot be used: "):
            await claims.claim_valkey(url.replace("operator:", "operator:not"), "ours")
