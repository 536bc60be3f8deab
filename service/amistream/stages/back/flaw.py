"""The error for invalid content of a bundle."""

from __future__ import annotations


class FlawError(Exception):
    """The content of a bundle is invalid. `code` is stable; `words` describe the flaw for people."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words
