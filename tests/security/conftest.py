"""An edge to test, before upstreams that remember what reached them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import certificates
from tests.edge_stand import WORKLOADS, EdgeStand, edge_stand


@pytest.fixture(scope="session")
def edge_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate for each workload of the mesh."""
    directory = tmp_path_factory.mktemp("certificates")
    certificates.issue(directory, *WORKLOADS)
    return directory


@pytest.fixture(scope="session")
async def running_stand(
    tmp_path_factory: pytest.TempPathFactory, edge_certificates: Path
) -> AsyncIterator[EdgeStand]:
    """The edge that most tests share."""
    directory = tmp_path_factory.mktemp("edge")
    async with edge_stand(directory, edge_certificates, cors_origins=["https://shop.example"]) as stand:
        yield stand


@pytest.fixture
def stand(running_stand: EdgeStand) -> EdgeStand:
    """The shared edge, with upstreams that know nothing of other tests."""
    running_stand.upstream.forget()
    return running_stand
