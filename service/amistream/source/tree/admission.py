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
from amistream.source.tree.secrets import LARGEST, SMALLEST, private_key_in
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
        self._looks_inside = selection.looks_at_content
        self._own_inodes = {inode for _, inode in around.own}

    def choose(self, path: bytes, found: Sequence[Seen]) -> Chosen:
        """Choose what comes in under a path. Raises OSError if the uppermost entry cannot be looked at."""
        if len(found) == 1:
            seen = found[0]
            about = seen.about()
            if self._layers[seen.layer].deletes(about) or self._leaves_out(seen, path, about):
                return []
            return [(seen, about)]
        if any(map(self._is_own, found)):
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
        rule = self._selection.leaves_out(b"/" + path, name, stat.S_IFDIR)
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
        around, size = self._around, about.st_size
        if (about.st_ino in self._own_inodes and (about.st_dev, about.st_ino) in around.own) or (
            around.own_names is not None and around.own_names.fullmatch(path)
        ):
            return _OWN
        kind = stat.S_IFMT(about.st_mode)
        follows_rules = self._layers[seen.layer].follows_rules
        rule = self._selection.leaves_out(b"/" + path, seen.name, kind) if follows_rules else ""
        if not rule and (member := seen.above.member) is not None:
            rule = rule_for_member(member, seen, about, is_mounted=path in around.mounts)
        if rule or kind != stat.S_IFREG or not size or self.rule_to_empty(seen, path, about):
            return rule
        look = follows_rules and self._looks_inside and SMALLEST <= size <= LARGEST
        return self._look_inside(seen, path, size if look else 0) if look or not around.privileged else ""

    def _look_inside(self, seen: Seen, path: bytes, size: int) -> str:
        """The rule that leaves a regular file out for its content. Records a file that cannot be read."""
        try:
            opened = seen.open()
            content = os.read(opened, size) if size else b""
        except OSError as error:
            self.miss(path, error)
            return ""
        found = private_key_in(content)
        return self._selection.leaves_out_key(b"/" + path, seen.name, found) if found else ""
