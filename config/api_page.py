"""Lists the requests of the socket API for the manual, with their parameters and documents, as OpenAPI has them."""

from __future__ import annotations

from typing import Any

from amistream.daemon.openapi import REFERENCE, make_document
from amistream.daemon.routes import ALWAYS, ENDPOINTS
from amistream.events import JobKind
from amistream.request import Option, model_of
from config.markdown import cell, table

_BODIES = {body.__name__ for endpoint in ENDPOINTS for body in endpoint.bodies}


def requests_table() -> str:
    """Format the requests with their answers."""
    rows = (
        (
            f"`{endpoint.method} {endpoint.path}`",
            endpoint.summary,
            "; ".join(f"{status.value}: {answer.description}" for status, answer in endpoint.answers.items()),
            ", ".join(str(status.value) for status in sorted(endpoint.errors)),
        )
        for endpoint in ENDPOINTS
    )
    always = ", ".join(str(status.value) for status in sorted(ALWAYS))
    return table(("request", "meaning", "answer", "errors"), rows) + f"\nErrors of every request: {always}.\n"


def parameters_table() -> str:
    """Format the parameters in paths, queries and headers."""
    rows = (
        (f"`{each.name}`", each.in_, f"`{endpoint.method} {endpoint.path}`", each.description)
        for endpoint in ENDPOINTS
        for each in endpoint.parameters
    )
    return table(("parameter", "in", "request", "meaning"), rows)


def fields_table() -> str:
    """Format the fields of all requests beside the options of the commands, which have the same meaning."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for kind in JobKind:
        for name, field in model_of(kind).model_fields.items():
            option = next((each.names for each in field.metadata if isinstance(each, Option)), "")
            kinds.setdefault((name, option), []).append(kind)
    rows = ((f"`{name}`", _option(option), ", ".join(named)) for (name, option), named in kinds.items())
    return table(("field", "option", "kinds"), rows)


def _option(names: str) -> str:
    if not names.startswith("-"):
        return f"`{names}`" if names else ""
    return ", ".join(f"`{each}`" for each in names.replace("/", " ").split())


def documents_tables() -> str:
    """Format the fields of all answers."""
    schemas = make_document(ENDPOINTS)["components"]["schemas"]
    lines = []
    for name, schema in schemas.items():
        if name in _BODIES or "properties" not in schema:
            continue
        rows = (
            (f"`{field}`", _type(about, schemas), cell(about.get("description", "")))
            for field, about in schema["properties"].items()
        )
        lines += [f"### {name}", "", cell(schema["description"]), "", table(("field", "type", "meaning"), rows)]
    return "\n" + "\n".join(lines) + "\n"


def _type(about: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "$ref" in about:
        name = about["$ref"].removeprefix(REFERENCE.format(model=""))
        return _type(schemas[name], schemas) if "enum" in schemas[name] else f"[{name}](#{name.lower()})"
    if "anyOf" in about:
        return " or ".join(_type(each, schemas) for each in about["anyOf"])
    if "enum" in about:
        return ", ".join(f"`{each}`" for each in about["enum"])
    if about.get("type") == "array":
        return f"list of {_type(about['items'], schemas)}"
    return str(about.get("format") or about.get("type", "any"))
