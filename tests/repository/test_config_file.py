"""`config/amistream.toml` and the manual's table of options are those of the models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amistream.settings import Settings, default_state_dir, load
from config.generate import CONFIG, ROOT, documents


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AMISTREAM_{name.upper()}", raising=False)


def test_the_documents_are_generated() -> None:
    """The settings file and the generated parts of pages are as `python config/generate.py` writes them."""
    made = documents()
    assert {path.name for path in made} >= {"amistream.toml"}
    assert len(made) == 8
    for path, text in made.items():
        assert path.read_text() == text, f"python {CONFIG.relative_to(ROOT).with_name('generate.py')}"


def test_the_file_as_shipped_changes_nothing() -> None:
    """Every setting in the file is commented out."""
    assert load(CONFIG) == Settings()


def test_uncommented_settings_are_defaults_or_valid_examples(tmp_path: Path) -> None:
    """Without its comment signs the file holds the defaults, examples where there is none, and root's directory."""
    path = tmp_path / "amistream.toml"
    path.write_text(re.sub(r"^#(?=[a-z0-9_]+ = )", "", CONFIG.read_text(), flags=re.MULTILINE))
    uncommented, defaults = load(path).model_dump(), Settings().model_dump()
    differing = {name for name in defaults if uncommented[name] != defaults[name]}
    without_default = {name for name, field in Settings.model_fields.items() if field.default is None}
    assert differing - {"state_dir"} == without_default


def test_the_file_shows_the_state_directory_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file shows the state directory that root gets."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert f'#state_dir = "{default_state_dir()}"' in CONFIG.read_text()


def test_settings_have_origin_unit_and_choices() -> None:
    """A setting's description ends with its default's origin, gives the unit of a duration, and lists all choices."""
    for name, field in Settings.model_fields.items():
        text = field.description or ""
        assert re.search(r"(Measured: |AWS limit: |Guess|Choice)[^\n]*\.$", text), name
        assert text.startswith("Seconds") == name.endswith("_s"), name
        choices = [str(choice) for choice in getattr(field.annotation, "__members__", {}).values()]
        assert all(f'"{choice}"' in text for choice in choices), name
