"""The state of a job, of the queue and of a lane is changed by their own methods, in their own files."""

from __future__ import annotations

import ast
from pathlib import Path

import amistream

PACKAGE = Path(amistream.__file__).parent
USERS = sorted(path for room in ("jobs", "daemon", "cli", "compat") for path in (PACKAGE / room).rglob("*.py"))
OWNERS = {"Job": "jobs/job.py", "JobQueue": "jobs/queue.py", "Lane": "jobs/lane.py"}


def written(tree: ast.AST, *, by_self: bool) -> set[str]:
    """Name the attributes that are assigned or deleted: those of `self`, or those of any other object."""
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)]
    return {place.attr for place in places if (ast.unparse(place.value) == "self") is by_self}


def attributes(owner: str) -> set[str]:
    """Name the attributes of a class: those that its methods assign, and the fields of a dataclass."""
    tree = ast.parse((PACKAGE / OWNERS[owner]).read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner)
    fields = {
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return fields | written(found, by_self=True)


def test_state_is_written_by_its_owner() -> None:
    """No other file of the rooms that use these classes writes one of their attributes."""
    owned = set().union(*map(attributes, OWNERS))
    assert owned >= {"state", "stopping", "manifest"}
    for path in USERS:
        if path.relative_to(PACKAGE).as_posix() not in OWNERS.values():
            assert written(ast.parse(path.read_text()), by_self=False) & owned == set(), path
