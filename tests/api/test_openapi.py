"""The OpenAPI document is complete, and its examples are requests that are accepted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from scripted import ScriptedEvaluator

from kerneljudge.api.app import create_app
from kerneljudge.service import JobService, Settings

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
def document() -> dict[str, Any]:
    return create_app(JobService(ScriptedEvaluator()), Settings()).openapi()


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
    service = JobService(ScriptedEvaluator())
    transport = httpx.ASGITransport(create_app(service, Settings()))
    async with service, httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        posted = examples(document)
        for path, name, body in posted:
            response = await client.post(path, json=body)
            assert response.status_code == 200, f"{path} {name}: {response.text}"
    assert {path for path, _, _ in posted} == {"/evaluate", "/compare"}
    types = {body["kernel"]["kernel_type"] for path, _, body in posted if path == "/evaluate"}
    assert types == {"torch", "triton", "cuda", "multi_kernel"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
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


def test_every_endpoint_of_the_manual_is_described(document: dict[str, Any]) -> None:
    described = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {
        "POST /evaluate",
        "POST /compare",
        "GET /job/{job_id}",
        "GET /health",
        "GET /stats",
        "POST /admin/cleanup-jobs",
    }
    assert "422" not in str(document["paths"])
    for path in ("/evaluate", "/compare"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "400", "413", "500"}


def test_the_fields_of_requests_and_answers_explain_themselves(document: dict[str, Any]) -> None:
    undescribed = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, value in schema.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]
    assert not undescribed
