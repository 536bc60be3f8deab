"""Parses server-sent events from lines (WHATWG HTML, section 9.2.6), as far as the daemon uses them. No I/O.

`feed` takes one line and returns an event once a blank line has completed it. Comments (the daemon's keep-alive) and
unknown fields are ignored, as in the standard.
"""

from __future__ import annotations

from amistream.events import Event


class EventParser:
    """One per connection: half an event at the end of a dropped stream must not join the next one."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: bytes) -> Event | None:
        """Take one line. Raises pydantic's ValidationError for invalid data of an event."""
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = "\n".join(self._data), []
        # The data repeats the `id:` and `event:` lines, so those are not parsed.
        return Event.model_validate_json(data) if data else None
