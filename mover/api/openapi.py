"""OpenAPI 3.1 made from the same values that route requests; `msgspec` gives the schemas of the wire
types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from mover.api.admission import SECURE_COOKIE
from mover.api.commands import COMMANDS
from mover.api.operation import ID_PATTERN, Operation, Planned
from mover.api.parsing import ACTS_FOR, UID_MAX
from mover.api.signin import BEGIN, CALLBACK, SESSION, WAYS
from mover.decide.access import ACTIONS
from mover.model import wire

_JSON = "application/json"
_SESSION = (
    "Set by POST /v1/session; on loopback without TLS it is called `mover`. Changes also carry the session's `csrf`"
    " as Mover-CSRF. Of a person with roles in several projects, Mover-Project names the one that a request means."
)
_NAMES = re.compile(r"\{(\w+)\}")


def document(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    operations = list(operations)
    bodies = {
        shape for one in operations for shape in (one.answer, one.body) if isinstance(shape, type) and shape is not str
    }
    plain = {wire.Problem, wire.Plan, wire.Health, wire.SessionRequest, wire.SignInWays}
    shapes = sorted(bodies | plain, key=lambda shape: shape.__name__)
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mover",
            "version": version,
            "description": "Brings de-identified, verified slides to a training cluster, protects what comes "
            "out and cleans up after it. Every answer to a failure is application/problem+json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _joined(paths, _plain_paths()),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": SECURE_COOKIE, "description": _SESSION},
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def _joined(paths: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return paths | {path: paths.get(path, {}) | methods for path, methods in more.items()}


def _operation(operation: Operation) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.path.split("/")[2]],
        "x-mover-action": operation.action,
        "x-mover-roles": sorted(ACTIONS[operation.action]),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation), *_headers(operation)],
        "responses": _responses(operation),
    }
    if operation.name in COMMANDS:
        said["x-mover-command"] = f"mover {COMMANDS[operation.name]}"
    if operation.body is not None:
        content = {_JSON: {"schema": _reference(operation.body)}}
        required = any(field.required for field in msgspec.structs.fields(operation.body))
        said["requestBody"] = {"required": required, "content": content}
    return said


def _responses(operation: Operation) -> dict[str, Any]:
    media = operation.media_type.partition(";")[0]
    schema: dict[str, Any] = _text(media) if operation.answer is str else _reference(operation.answer)
    content = {one: {"schema": schema} for one in (media, *operation.also)}
    responses = {str(operation.status): {"description": operation.summary, "content": content}}
    if issubclass(operation.query, Planned):
        plan: dict[str, Any] = {_JSON: {"schema": _reference(wire.Plan)}}
        if operation.status == 200:
            plan = {_JSON: {"schema": {"anyOf": [schema, _reference(wire.Plan)]}}}
        responses["200"] = {
            "description": "With plan=true: what would be done; nothing was changed.",
            "content": plan,
        }
    problem = {"application/problem+json": {"schema": _reference(wire.Problem)}}
    responses["default"] = {"description": "Refused or failed; see `code`.", "content": problem}
    return responses


def _text(media: str) -> dict[str, Any]:
    """What is sent as it stands somewhere, such as a certificate: JSON of a shape of its own, or no JSON."""
    return {"type": "object"} if media == _JSON else {"type": "string"}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    shape = {"type": "string", "pattern": ID_PATTERN.replace("\\Z", "$")}
    return [{"name": name, "in": "path", "required": True, "schema": shape} for name in _NAMES.findall(operation.path)]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([operation.query])
    shape = components[operation.query.__name__]
    required = shape.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
        for name, schema in shape["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out has no null in a URL."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _headers(operation: Operation) -> list[dict[str, Any]]:
    if operation.method != "POST":
        return []
    shape = {"type": "string", "minLength": 1, "maxLength": 200}
    key = {"name": "Idempotency-Key", "in": "header", "required": operation.key == "required", "schema": shape}
    if operation.action != "runs.request":
        return [key]
    uid = {"type": "integer", "minimum": 1, "maximum": UID_MAX}
    told = "The uid of the job's user; sent by a scheduler, and by nobody else."
    return [key, {"name": ACTS_FOR, "in": "header", "required": False, "schema": uid, "description": told}]


def _reference(shape: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _plain_paths() -> dict[str, Any]:
    """What is asked without a role."""
    problem = {"application/problem+json": {"schema": _reference(wire.Problem)}}
    failed = {"description": "Refused or failed; see `code`.", "content": problem}

    def said(name: str, summary: str, answer: dict[str, Any], *, status: str = "200", **more: Any) -> dict[str, Any]:
        return {
            "operationId": name, "summary": summary, "tags": [name.partition(".")[0]], "security": [],
            "parameters": [], "responses": {status: {"description": summary} | answer, "default": failed},
        } | more  # fmt: skip

    def one(media: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"content": {media: {"schema": schema}}}

    text = {"type": "string"}
    exposed = "Prometheus metrics; from loopback, the local socket or with a token."
    body = {"required": True, "content": {_JSON: {"schema": _reference(wire.SessionRequest)}}}
    opened = one(_JSON, _reference(wire.Session)) | {"headers": {"Set-Cookie": {"schema": text}}}
    ways = one(_JSON, _reference(wire.SignInWays))

    def asked(*names: str) -> list[dict[str, Any]]:
        return [{"name": name, "in": "query", "required": False, "schema": text} for name in names]

    return {
        "/healthz": {"get": said("service.healthz", "Can this daemon work?", one(_JSON, _reference(wire.Health)))},
        "/openapi.json": {"get": said("service.openapi", "This document.", one(_JSON, {"type": "object"}))},
        "/metrics": {"get": said("service.metrics", exposed, one("text/plain", text))},
        SESSION: {"post": said("session.open", "Sign in.", opened, status="201", requestBody=body)},
        WAYS: {"get": said("session.ways", "What a page for signing in offers.", ways)},
        BEGIN: {"get": said("session.begin", "To the identity provider.", {}, status="302", parameters=asked("to"))},
        CALLBACK: {"get": said("session.callback", "Back from it.", one("text/html", text),
                               parameters=asked("state", "code", "error"))},
    }  # fmt: skip
