"""EC2's query protocol: parameters with numbered names into nested values, and values into XML."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"


def parse(body: bytes) -> dict[str, Any]:
    """Nest `BlockDeviceMapping.1.Ebs.SnapshotId=x`: numbered names become lists, in the order of their numbers."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        place = tree
        *path, last = name.split(".")
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return {name: _listed(value) for name, value in tree.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(name.isdigit() for name in value):
        return [_listed(value[name]) for name in sorted(value, key=int)]
    return {name: _listed(each) for name, each in value.items()}


def answer(operation: str, request: str, content: dict[str, Any]) -> bytes:
    inside = to_xml("requestId", request) + "".join(to_xml(name, value) for name, value in content.items())
    return f'<{operation}Response xmlns="{NAMESPACE}">{inside}</{operation}Response>'.encode()


def error(code: str, message: str, request: str) -> bytes:
    what = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    return f"<Response><Errors><Error>{what}</Error></Errors><RequestID>{request}</RequestID></Response>".encode()


def to_xml(name: str, value: Any) -> str:
    """Write an element; a list becomes items, and None or an empty text becomes nothing."""
    match value:
        case None | "":
            return ""
        case bool():
            text = str(value).lower()
        case dict():
            text = "".join(to_xml(*each) for each in value.items())
        case list():
            text = "".join(to_xml("item", each) for each in value)
        case _:
            text = escape(str(value))
    return f"<{name}>{text}</{name}>"
