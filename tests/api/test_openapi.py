"""The OpenAPI document is complete, and its examples are requests that are accepted."""

from __future__ import annotations

from typing import Any

import pytest
from applications import application, client_of
from scripted import ScriptedEvaluator

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
async def document() -> dict[str, Any]:
    async with application(ScriptedEvaluator()) as (app, _):
        return app.openapi()


def examples(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, name, example["value"])
        for path, operations in document["paths"].items()
        if "requestBody" in operations.get("post", {})
        for name, example in operations["post"]["requestBody"]["content"]["application/json"][
            "examples"
        ].items()
    ]


async def test_every_example_is_accepted(document: dict[str, Any]) -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        posted = examples(document)
        for path, name, body in posted:
            response = await client.post(path, json=body)
            assert response.status_code == 200, f"{path} {name}: {response.text}"
    assert {path for path, _, _ in posted} == {"/evaluate", "/compare", "/batch"}
    types = {body["kernel"]["kernel_type"] for path, _, body in posted if path == "/evaluate"}
    assert types == {"torch", "triton", "cuda", "multi_kernel"}


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    references.append(value)
                else:
                    collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(document)
    missing = {ref for ref in references if ref.rpartition("/")[2] not in schemas}
    assert not missing
    for name in ("EvaluateRequest", "CompareRequest", "LegacyCompareRequest", "IOContract"):
        assert name in schemas


async def test_every_endpoint_of_the_manual_is_described(document: dict[str, Any]) -> None:
    described = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {
        "POST /evaluate",
        "POST /compare",
        "POST /batch",
        "GET /job/{job_id}",
        "GET /job/{job_id}/events",
        "DELETE /job/{job_id}",
        "GET /jobs",
        "GET /health",
        "GET /health/live",
        "GET /health/ready",
        "GET /stats",
        "GET /metrics",
        "POST /admin/cleanup-jobs",
    }
    assert "422" not in str(document["paths"])
    for path in ("/evaluate", "/compare", "/batch"):
        operation = document["paths"][path]["post"]
        assert set(operation["responses"]) == {
            *("200", "202", "400", "401", "403", "408", "409", "413", "415", "429", "500", "503")
        }
        assert {parameter["name"] for parameter in operation["parameters"]} == {
            *("wait", "priority", "deadline"),
            *("Prefer", "Idempotency-Key", "X-KernelJudge-Client"),
        }


async def test_the_fields_of_requests_and_answers_explain_themselves(
    document: dict[str, Any],
) -> None:
    undescribed = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, value in schema.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]
    assert not undescribed
