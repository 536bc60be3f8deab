"""Server-sent events out of lines (WHATWG HTML, section 9.2.6), as far as the daemon uses them. No I/O.

`feed` takes one line and returns an event when a blank line has completed one. Comments (the daemon's keep-alive) and
unknown fields are passed over, as the standard asks.
"""

from __future__ import annotations

from amistream.events import Event


class EventParser:
    """Make one per connection: a half event at the end of a dropped stream must not run into the next one."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: bytes) -> Event | None:
        """Raises pydantic's ValidationError when an event's data is not one of ours."""
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = "\n".join(self._data), []
        # The data repeats what the `id:` and `event:` lines say, so those need no reading.
        return Event.model_validate_json(data) if data else None
