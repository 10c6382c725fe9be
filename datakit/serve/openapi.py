"""The OpenAPI 3.1 document of a table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from datakit.serve.schema import TEXT

if TYPE_CHECKING:
    from datakit.serve.api import Route

PROBLEM = {"type": "object", "properties": {"problem": TEXT}, "required": ["problem"]}
SAID = {
    "400": "What was asked cannot be; the problem says why.",
    "401": "The token is missing.",
    "403": "A page of another site may not ask.",
    "404": "There is no such thing.",
    "413": "The request is too large.",
    "503": "Too many requests wait, or a file of the store is damaged.",
}


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "datakit serve",
            "version": "1",
            "description": "A store and its indices. The token goes as `Authorization: Bearer`, or as `?token=`.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "address": {"type": "apiKey", "in": "query", "name": "token"},
            },
            "schemas": {"Problem": PROBLEM},
        },
        "security": [{"bearer": []}, {"address": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    problem = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    in_path = re.findall(r"{(\w+)}", route.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": TEXT} for name in in_path
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()]
    found: dict[str, Any] = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {route.path}")),
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Found.", "content": {route.kind: {"schema": route.answer}}},
            **{status: {"description": said, **problem} for status, said in SAID.items()},
        },
    }
    if route.body:
        schema = {"type": "object", "properties": dict(route.body), "additionalProperties": route.more}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found
