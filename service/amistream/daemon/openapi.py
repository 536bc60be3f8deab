"""The OpenAPI 3.1 document of the socket API, made from the table of endpoints and their models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from amistream import __version__
from amistream.daemon.routes import ALWAYS, JSON, Answer, Endpoint, Parameter
from amistream.events import ErrorResponse

REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = (
    "HTTP on a Unix socket: `curl --unix-socket /run/amistream/amistream.sock http://localhost/v1/health`. "
    "Callers are identified by their peer credentials. Unknown fields and query parameters are refused."
)


def make_document(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "amistream", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "http://localhost", "description": "through the Unix socket; the host name is ignored"}],
        "paths": paths,
        "components": {"schemas": _schemas(endpoints)},
    }


def _schemas(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    taken = {body for endpoint in endpoints for body in endpoint.bodies}
    given = {answer.model for endpoint in endpoints for answer in endpoint.answers.values() if answer.model}
    wanted: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *((model, "validation") for model in taken),
        *((model, "serialization") for model in given | {ErrorResponse}),
    ]
    _, definitions = models_json_schema(wanted, ref_template=REFERENCE)
    schemas: dict[str, Any] = definitions["$defs"]
    return dict(sorted(schemas.items()))


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "x-access": endpoint.access.value,
        "parameters": [_parameter(parameter) for parameter in endpoint.parameters],
        "responses": {
            **{str(status.value): _answer(answer) for status, answer in endpoint.answers.items()},
            **{
                str(status.value): {"description": status.phrase, "content": _json(ErrorResponse)}
                for status in sorted({*endpoint.errors, *ALWAYS})
            },
        },
    }
    if endpoint.bodies:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _body(endpoint.bodies)}}}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if parameter.pattern:
        schema["pattern"] = parameter.pattern
    if parameter.values:
        schema["enum"] = list(parameter.values)
    return {
        "name": parameter.name,
        "in": parameter.in_,
        "required": parameter.in_ == "path",
        "description": parameter.description,
        "schema": schema,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.description}
    if answer.location:
        response["headers"] = {"Location": {"description": "the job's path", "schema": {"type": "string"}}}
    if answer.media_type != JSON:
        response["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    elif answer.model:
        response["content"] = _json(answer.model)
    else:
        response["content"] = {JSON: {"schema": {"type": "object"}}}
    return response


def _body(models: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    """One of the models, by the kind of job."""
    mapping = {
        model.model_json_schema()["properties"]["kind"]["const"]: REFERENCE.format(model=model.__name__)
        for model in models
    }
    references = [{"$ref": reference} for reference in mapping.values()]
    return {"oneOf": references, "discriminator": {"propertyName": "kind", "mapping": mapping}}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}
