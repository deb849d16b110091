"""The server keeps to its own OpenAPI document, whatever it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import hypothesis
import pytest
import schemathesis
from listening import listening
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from scripted import ScriptedEvaluator

from kerneljudge.api.app import create_app
from kerneljudge.service import JobService, Settings, SqlStore

pytestmark = pytest.mark.integration


def fails_only_for_want_of_time(
    _context: Any, response: schemathesis.Response, _case: schemathesis.Case
) -> None:
    """A request may give its job less time than judging at once takes; nothing else is a 5xx."""
    if response.status_code >= 500:
        assert response.status_code == 500, response.text
        assert response.json()["error"].startswith("deadline: "), response.text


CHECKS = [
    fails_only_for_want_of_time,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


def document() -> Any:
    """The document, for which nothing need run."""
    service = JobService(ScriptedEvaluator(), store=cast(SqlStore, None), settings=Settings())
    return schemathesis.openapi.from_dict(create_app(service).openapi())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that judges at once."""
    with listening(ScriptedEvaluator()) as served:
        yield served


@document().parametrize()
@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    derandomize=True,
)
def test_every_answer_is_one_that_the_document_describes(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
