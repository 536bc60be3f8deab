"""Decides which entries of a live tree come into the image, by the rules of a job, and records those that do not."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from amistream.source.tree.confined import CLOSED, rule_for_member
from amistream.source.tree.handles import is_gone
from amistream.source.tree.layers import Layer
from amistream.source.tree.merged import Chosen, Seen, choose
from amistream.source.tree.report import Fate, Report
from amistream.source.tree.select import Selection
from amistream.source.tree.surroundings import Surroundings

_OWN = "always: a file of this job, of amistream, or swap space"


class Admission:
    """The rules of one walk."""

    def __init__(self, layers: Sequence[Layer], selection: Selection, around: Surroundings, report: Report) -> None:
        self._layers = layers
        self._selection = selection
        self._around = around
        self._report = report

    def choose(self, path: bytes, found: Sequence[Seen]) -> Chosen:
        """Choose what comes in under a path. Raises OSError if the uppermost entry cannot be looked at."""
        if len(found) > 1 and any(map(self._is_own, found)):
            # A script that touched such a file made a copy of it.
            self._report.add(Fate.LEFT_OUT, path, _OWN)
            return []
        return choose(
            found,
            self._layers,
            left_out=lambda seen, about: self._leaves_out(seen, path, about),
            covered=lambda words: self._report.add(Fate.COVERED, path, words),
        )

    def rule_to_empty(self, seen: Seen, path: bytes, about: os.stat_result) -> str:
        """The rule by which an entry comes in as an empty file, or ''."""
        if not self._selection.empties_any or not self._layers[seen.layer].follows_rules:
            return ""
        kind = stat.S_IFMT(about.st_mode)
        if kind == stat.S_IFDIR or (kind == stat.S_IFREG and not about.st_size):
            return ""
        return self._selection.empties(b"/" + path, seen.name)

    def leaves_out_directory(self, path: bytes, name: bytes) -> bool:
        """Leave out a directory by its path alone."""
        rule = self._selection.leaves_out(b"/" + path, name, directory=True)
        if rule:
            self._report.add(Fate.LEFT_OUT, path, rule)
        return bool(rule)

    def miss(self, path: bytes, error: OSError, fate: Fate = Fate.UNREADABLE) -> None:
        """Record an entry that cannot be read, or is gone: it may have moved to where the walk has been before."""
        self._report.add(Fate.GONE if is_gone(error) else fate, path, error.strerror or str(error))

    def _is_own(self, seen: Seen) -> bool:
        try:
            about = seen.about()
        except OSError:
            return False
        return (about.st_dev, about.st_ino) in self._around.own

    def _leaves_out(self, seen: Seen, path: bytes, about: os.stat_result) -> bool:
        rule = self._rule_for(seen, path, about)
        if rule == CLOSED:
            self._report.add(Fate.CLOSED, path)
        elif rule:
            self._report.add(Fate.LEFT_OUT, path, rule)
        return bool(rule)

    def _rule_for(self, seen: Seen, path: bytes, about: os.stat_result) -> str:
        """The rule that leaves an entry out, or ''. The job's own files never come in."""
        if (about.st_dev, about.st_ino) in self._around.own or self._around.own_name(path):
            return _OWN
        selection, full = self._selection, b"/" + path
        follows_rules = self._layers[seen.layer].follows_rules
        kind = stat.S_IFMT(about.st_mode)
        rule = selection.leaves_out(full, seen.name, directory=kind == stat.S_IFDIR) if follows_rules else ""
        if not rule and (member := seen.above.member) is not None:
            rule = rule_for_member(member, seen, about, is_mounted=path in self._around.mounts)
        if rule or kind != stat.S_IFREG:
            return rule
        if follows_rules and (rule := selection.leaves_out_file(full, seen.name)):
            return rule
        if not about.st_size or self.rule_to_empty(seen, path, about):
            return ""
        return self._look_inside(seen, path, about, look=follows_rules and selection.wants_to_read(about.st_size))

    def _look_inside(self, seen: Seen, path: bytes, about: os.stat_result, *, look: bool) -> str:
        """The rule that leaves a regular file out for its content. Records a file that cannot be read."""
        if not look and self._around.privileged:
            return ""
        try:
            opened = seen.open()
            content = os.read(opened, about.st_size) if look else b""
        except OSError as error:
            self.miss(path, error)
            return ""
        return self._selection.leaves_out_content(b"/" + path, seen.name, content) if look else ""
