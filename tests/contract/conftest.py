"""What the contract tests walk over: every descriptor of the platform, and the comments that belong to it."""

from pathlib import Path

import pytest

from meshctl.build.gen.comments import Comments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def comments() -> Comments:
    return Comments(ROOT / "gen/descriptors/protomesh.binpb")
