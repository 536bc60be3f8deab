"""Fixtures of the tests of trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from source.tree.nasty import make_nasty_tree


@pytest.fixture(scope="session")
def nasty_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything. Nobody may change it."""
    root = tmp_path_factory.mktemp("trees") / "nasty"
    root.mkdir()
    make_nasty_tree(root, names=1_500)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty tree of the test's own."""
    root = tmp_path / "tree"
    root.mkdir()
    return root
