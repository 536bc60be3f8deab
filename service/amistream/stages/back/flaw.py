"""What is wrong with the content of a bundle."""

from __future__ import annotations


class FlawError(Exception):
    """The stream is not what a bundle holds. `code` is stable, `words` say what is wrong, for people."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words
