"""The fixtures that end-to-end tests share: an edge by itself, and who shops at a whole mesh."""

import pytest

from tests.edge_stand import edge_certificates, running_stand, stand
from tests.mesh import Mesh, User
from tests.shop import Shop

__all__ = ["edge_certificates", "running_stand", "stand"]


@pytest.fixture(scope="module")
def shop(mesh: Mesh) -> Shop:
    return Shop(mesh)


@pytest.fixture(scope="module")
async def anna(mesh: Mesh) -> User:
    return await mesh.sign_up()
