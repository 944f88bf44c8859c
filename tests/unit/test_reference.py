"""The reference pages are written from the code; what is tested is that they say all of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from tidegauge import reference
from tidegauge.processors.core.views import MEASUREMENTS
from tidegauge.settings import Settings, load
from tidegauge.sinks.query import columns

DOCS = Path(__file__).parents[2] / "docs"


def test_the_pages_in_the_checkout_are_current() -> None:
    assert reference.main(["--check", "--docs", str(DOCS)]) == 0


def test_a_page_that_is_not_current_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DOCS / "reference", tmp_path / "reference")
    (tmp_path / "reference" / "settings.md").write_text("old")
    assert reference.main(["--check", "--docs", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "settings.md is not current; run: make docs" in printed


def test_every_setting_is_there_under_the_name_that_the_environment_takes() -> None:
    page = reference.settings()
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            name = f"TIDEGAUGE_{section.name}_{field.name}".upper()
            assert page.count(f"| `{field.name}` | `{name}` |") == 1
    assert "hunter2" not in repr(load(environ={"TIDEGAUGE_KAFKA_SASL_PASSWORD": "hunter2"}))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_field_of_a_measurement_is_explained(name: str) -> None:
    page = reference.measurements()
    assert f"| [`{name}`](#{name}) |" in page
    for field in columns(name)[1:]:
        assert f"`{field}`" in page


def test_the_example_settings_are_settings(tmp_path: Path) -> None:
    example = reference.settings().split("```toml\n")[1].split("```")[0]
    file = tmp_path / "example.toml"
    file.write_text(example)
    assert load(file, environ={}).kafka.sasl_mechanism == "SCRAM-SHA-512"
