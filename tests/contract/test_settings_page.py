"""Every setting is documented: the page is generated, and a setting without a description cannot be."""

from pathlib import Path

import pytest
from pydantic import Field

from chassis.core import Settings
from meshctl.build.gen import settings_page

ROOT = Path(__file__).parents[2]


class Undocumented(Settings):
    speed: int = Field(1)


def test_the_page_names_every_setting_of_every_service() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    assert page == settings_page.page()
    for name in Settings.model_fields:
        assert f"`PROTOMESH_{name.upper()}`" in page


def test_a_setting_without_a_description_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Undocumented\.speed has no description"):
        list(settings_page._section("Undocumented", Undocumented, Undocumented.model_fields))
