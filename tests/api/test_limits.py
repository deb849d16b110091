"""The bounds of a server: each is told with the setting that makes it, and nothing is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from applications import application, client_of
from scripted import ScriptedEvaluator

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL: dict[str, Any] = {"source_code": "def f(x): return x", "kernel_type": "torch"}


def with_tensor(*shape: int) -> dict[str, Any]:
    tensor = {"name": "x", "type": "tensor", "tensor_spec": {"shape": list(shape)}}
    return {"kernel": {**KERNEL, "io": {"args": [tensor]}}}


SOURCE = {**KERNEL, "source_code": "é" * 1000}  # 2000 bytes
TOO_MUCH = [
    ("/evaluate", {"kernel": SOURCE}, "max_source_bytes", 1999, "body -> kernel -> source_code"),
    (
        "/compare",
        {"ref_kernel": KERNEL, "custom_kernel": SOURCE},
        "max_source_bytes",
        1999,
        "body -> custom_kernel -> source_code",
    ),
    (
        "/",
        {"ref_code": "x", "custom_code": SOURCE["source_code"]},
        "max_source_bytes",
        1999,
        "body -> custom_code",
    ),
    (
        "/evaluate",
        with_tensor(512),
        "max_tensor_bytes",
        2047,
        "body -> kernel -> io -> args -> 0 -> tensor_spec",
    ),
    ("/evaluate", {"kernel": KERNEL, "num_trials": 21}, "max_trials", 20, "body -> num_trials"),
    ("/evaluate", {"kernel": KERNEL, "timeout": 31}, "max_timeout", 30, "body -> timeout"),
    (
        "/compare",
        {"ref_code": "x", "custom_code": "y", "timeout": 31},
        "max_timeout",
        30,
        "body -> timeout",
    ),
]


@pytest.mark.parametrize(("path", "body", "setting", "bound", "field"), TOO_MUCH)
async def test_a_request_beyond_a_bound_is_a_400_that_names_it(
    path: str, body: dict[str, Any], setting: str, bound: int, field: str
) -> None:
    evaluator = ScriptedEvaluator()
    async with application(evaluator, **{setting: bound}) as (app, _), client_of(app) as client:
        answer = await client.post(path, json=body)
        batched = await client.post("/batch", json={"requests": [{"kernel": KERNEL}, body]})
    assert answer.status_code == batched.status_code == 400
    told = answer.json()
    assert set(told) == {"error", "details", "status"}
    assert f"KERNELJUDGE_{setting.upper()}" in told["error"]
    assert str(bound) in told["error"]
    assert told["details"] == f"at {field}"
    (issue,) = batched.json()["validation_errors"]
    assert issue["field"] == field.replace("body", "body -> requests -> 1", 1)
    assert issue["message"] == told["error"]
    assert not evaluator.requests


@pytest.mark.parametrize(("path", "body", "setting", "bound", "field"), TOO_MUCH)
async def test_a_request_at_a_bound_is_taken(
    path: str, body: dict[str, Any], setting: str, bound: int, field: str
) -> None:
    async with (
        application(ScriptedEvaluator(), **{setting: bound + 1}) as (app, _),
        client_of(app) as client,
    ):
        assert (await client.post(path, json=body)).status_code == 200


async def test_what_a_request_leaves_open_keeps_to_the_bounds() -> None:
    evaluator = ScriptedEvaluator()
    bodies = [{"kernel": KERNEL}, {"ref_code": "x", "custom_code": "y"}]
    async with (
        application(evaluator, max_trials=20, max_timeout=10) as (app, _),
        client_of(app) as client,
    ):
        answer = await client.post("/batch", json={"requests": bodies})
    assert answer.status_code == 200
    assert [(request.num_trials, request.timeout) for request in evaluator.requests] == [
        (20, 10),
        (20, 10),
    ]


async def test_a_batch_is_bounded() -> None:
    async with (
        application(ScriptedEvaluator(), max_batch=2) as (app, _),
        client_of(app) as client,
    ):
        whole = await client.post("/batch", json={"requests": [{"kernel": KERNEL}] * 2})
        more = await client.post("/batch", json={"requests": [{"kernel": KERNEL}] * 3})
        # Nothing of so many is looked at.
        many = await client.post("/batch", json={"requests": [7] * 100_000})
    assert whole.status_code == 200
    for answer in (more, many):
        assert answer.status_code == 400
        (issue,) = answer.json()["validation_errors"]
        assert issue["field"] == "body -> requests"
        assert "at most 2 requests" in issue["message"]
        assert "KERNELJUDGE_MAX_BATCH" in issue["message"]


async def test_tensors_that_no_device_can_hold_are_a_400() -> None:
    evaluator = ScriptedEvaluator(memory_bytes=10_000)
    async with application(evaluator) as (app, _), client_of(app) as client:
        small = await client.post("/evaluate", json=with_tensor(512))
        large = await client.post("/evaluate", json=with_tensor(5000))
    assert small.status_code == 200
    assert large.status_code == 400
    assert "device memory" in large.json()["error"]
    assert large.json()["status"] == "client_error"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
        ({"Content-Type": "application/vnd.kernel+json"}, 200),
        ({}, 200),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "é"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
    ],
)
async def test_a_body_is_json_or_refused(headers: dict[str, str], code: int) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        answer = await client.post(
            "/evaluate", content=json.dumps({"kernel": KERNEL}), headers=encoded
        )
    assert answer.status_code == code
    if code == 415:
        assert "Content" in answer.json()["error"]
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": {"b": 0, "b": 1}}', "twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": %s}' % ("9" * 2000), "digits"),
        ('{"a": "\\ud800"}', "JSON"),
        ('{"a": %s}' % ("[" * 300 + "]" * 300), "recursion"),
    ],
)
async def test_what_two_readers_could_read_differently_is_refused(
    metadata: str, reason: str
) -> None:
    body = f'{{"kernel": {{"source_code": "x", "kernel_type": "torch", "metadata": {metadata}}}}}'
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        answer = await client.post("/evaluate", content=body)
    assert answer.status_code == 400
    (issue,) = answer.json()["validation_errors"]
    assert issue["field"] == "body"
    assert reason in issue["message"]
