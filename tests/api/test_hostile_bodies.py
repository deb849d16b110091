"""Whatever is sent as a body is judged or refused with 400, in the documented form."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from listening import listening
from scripted import ScriptedEvaluator

from kerneljudge.api import BrokenRuleResponse, InvalidRequestResponse
from kerneljudge.api.examples import BATCH_EXAMPLES, COMPARE_EXAMPLES, EVALUATE_EXAMPLES

pytestmark = pytest.mark.integration

VALID: list[tuple[str, Any]] = [
    (path, entry["value"])
    for path, entries in (
        ("/evaluate", EVALUATE_EXAMPLES),
        ("/compare", COMPARE_EXAMPLES),
        ("/", COMPARE_EXAMPLES),
        ("/batch", BATCH_EXAMPLES),
    )
    for entry in entries.values()
]
PATHS = st.sampled_from(["/evaluate", "/compare", "/", "/batch"])

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "\0", "torch", "tensor", "NaN", "Infinity", "💥", "a" * 5000]),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4)
    ),
    max_leaves=8,
)

fuzzed = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        listening(ScriptedEvaluator(), max_body_bytes=2**20) as url,
        httpx.Client(base_url=url, trust_env=False) as connected,
    ):
        yield connected


def assert_judged_or_refused(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400), answer.text
    body = answer.json()
    if answer.status_code == 400:
        form = InvalidRequestResponse if "validation_errors" in body else BrokenRuleResponse
        assert form.model_validate(body)
        assert set(body) == set(form.model_fields)
        assert body["status"] == "client_error"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value."""
    yield path
    items = enumerate(value) if isinstance(value, list) else ()
    for key, child in value.items() if isinstance(value, dict) else items:
        yield from places(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another at the path."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


TENSOR = {"name": "x", "type": "tensor", "tensor_spec": {"shape": [1], "dtype": {}}}


@st.composite
def mistyped(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid body, of which something is anything."""
    path, body = draw(st.sampled_from(VALID))
    place = draw(st.sampled_from(list(places(body))))
    return path, changed(body, place, draw(JSON))


@given(request=mistyped())
@example(request=("/evaluate", changed(VALID[0][1], ("kernel", "kernel_type"), {"a": []})))
@example(request=("/evaluate", changed(VALID[0][1], ("kernel", "io"), {"args": [TENSOR]})))
@example(request=("/compare", {"ref_code": "\0", "custom_code": "x"}))
@fuzzed
def test_a_body_with_a_wrong_value(client: httpx.Client, request: tuple[str, Any]) -> None:
    path, body = request
    assert_judged_or_refused(client.post(path, content=json.dumps(body)))


@given(data=st.data())
@fuzzed
def test_a_body_that_is_cut_off(client: httpx.Client, data: st.DataObject) -> None:
    path, body = data.draw(st.sampled_from(VALID))
    whole = json.dumps(body).encode()
    end = data.draw(st.integers(0, len(whole) - 1))
    answer = client.post(path, content=whole[:end])
    assert answer.status_code == 400
    assert_judged_or_refused(answer)


@given(path=PATHS, body=st.binary(max_size=200))
@example(path="/evaluate", body=b"\xef\xbb\xbf{}")
@example(path="/batch", body='{"requests": []}'.encode("utf-16"))
@fuzzed
def test_a_body_of_any_bytes(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == 400
    assert_judged_or_refused(answer)


@given(path=PATHS, body=JSON)
@fuzzed
def test_a_body_of_any_json(client: httpx.Client, path: str, body: Any) -> None:
    answer = client.post(path, content=json.dumps(body))
    assert answer.status_code == 400
    assert_judged_or_refused(answer)


@pytest.mark.parametrize("path", ["/evaluate", "/compare", "/", "/batch"])
@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 500_000,
        b'{"kernel":' * 50_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"1" * 100_000,
        b"-" + b"9" * 100_000,
        b"1e" + b"9" * 1000,
        b'"' + b"a" * 500_000 + b'"',
        b"[" + b"0," * 300_000 + b"0]",
        b'{"requests": [' + b"{}," * 200_000 + b"{}]}",
        b"{" + b",".join(b'"%d":0' % number for number in range(50_000)) + b"}",
    ],
    ids=["deep", "deep-objects", "deep-whole", "digits", "negative", "exponent", "text", "zeros",
         "empty-requests", "keys"],
)  # fmt: skip
def test_a_body_that_is_much_of_one_thing(client: httpx.Client, path: str, raw: bytes) -> None:
    answer = client.post(path, content=raw)
    assert answer.status_code == 400
    assert len(answer.content) < 10_000
    assert_judged_or_refused(answer)


@pytest.mark.parametrize("metadata", [{"a": "x" * 65_536}, {"a": [1] * 40_000}])
def test_metadata_that_every_listing_would_carry_is_bounded(
    client: httpx.Client, metadata: dict[str, Any]
) -> None:
    kernel = {"source_code": "x = 1", "kernel_type": "torch", "metadata": metadata}
    answer = client.post("/evaluate", json={"kernel": kernel})
    assert answer.status_code == 400
    (issue,) = answer.json()["validation_errors"]
    assert issue["field"] == "body -> kernel -> metadata"
    assert "more than 65536 characters" in issue["message"]
    kernel["metadata"] = {"a": "x" * 65_000}
    assert client.post("/evaluate", json={"kernel": kernel}).status_code == 200


@pytest.mark.parametrize("name", ["source_code", "metadata"])
def test_what_a_user_writes_comes_back_untouched(client: httpx.Client, name: str) -> None:
    kernel: dict[str, Any] = {"source_code": "x = 1", "kernel_type": "torch"}
    odd: dict[str, Any] = {
        "source_code": "# \x01\x7f\u2028\ufeff💥\ud7ff",
        "metadata": {"\0": "\0", "💥": [2**70, -0.0, 1e308, "\u2028"], "": {"": None}},
    }
    body = {"kernel": {**kernel, name: odd[name]}}
    answer = client.post("/evaluate", json=body)
    assert answer.status_code == 200
    told = client.get(f"/job/{answer.json()['job_id']}").json()["result"]
    assert told == answer.json()
    if name == "metadata":
        assert told["kernel_metadata"]["candidate"] == odd["metadata"]
