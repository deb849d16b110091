"""The OpenAPI document: the request bodies, which the handlers read themselves, are added here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from kerneljudge.schema import CompareRequest, EvaluateRequest, LegacyCompareRequest

__all__ = ["document", "request_body"]

_REFERENCE = "#/components/schemas/{model}"


def request_body(*names: str, examples: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of a path whose body is one of the schemas of these names."""
    references = [{"$ref": _REFERENCE.format(model=name)} for name in names]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": examples}},
        }
    }


def document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """A function for `app.openapi`, which makes the document once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _, definitions = models_json_schema(
                [
                    (model, "validation")
                    for model in (EvaluateRequest, CompareRequest, LegacyCompareRequest)
                ],
                ref_template=_REFERENCE,
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, definition in definitions["$defs"].items():
                schemas.setdefault(name, definition)
            _drop_unprocessable(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi


def _drop_unprocessable(schema: dict[str, Any]) -> None:
    """Takes out the 422 that FastAPI writes for every path parameter: no path answers with it."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
