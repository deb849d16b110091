"""What a search for the best kernel needs: many candidates at once, phases as they happen,
cancelling, idempotency, and what may go wrong.

    python examples/client/advanced_patterns.py --url http://localhost:8000
"""

from __future__ import annotations

import argparse
import asyncio
import uuid

from kerneljudge.client import (
    AsyncKernelJudgeClient,
    CompareRequest,
    CompareResponse,
    EvaluateRequest,
    JobCancelled,
    JobEventResponse,
    KernelCode,
    KernelJudgeError,
    RequestError,
    Verdict,
)

REFERENCE = """\
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return torch.relu(x) ** 2


def get_inputs():
    return [torch.randn(512, 512)]
"""

CANDIDATES = {
    "clamp": "x.clamp(min=0).square()",
    "where": "torch.where(x > 0, x * x, 0.0)",
    "product": "x * torch.relu(x)",
    "wrong": "x.square()",
    "broken": "torch.no_such_function(x)",
}

ENDLESS = REFERENCE.replace("return torch.relu(x) ** 2", "\n        while True: pass")


def model(expression: str) -> KernelCode:
    source = REFERENCE.replace("class Model", "class ModelNew")
    return KernelCode(
        source_code=source.replace("torch.relu(x) ** 2", expression), kernel_type="torch"
    )


async def best_of(client: AsyncKernelJudgeClient, reference: KernelCode) -> None:
    """Compares all candidates with the reference, and ranks those that are right."""
    requests = [
        CompareRequest(ref_kernel=reference, custom_kernel=model(one), num_trials=20, seed=1)
        for one in CANDIDATES.values()
    ]
    # What fails holds up no other: an exception stands in its place.
    outcomes = await client.batch(requests, progress=True)
    speedups = {}
    for name, outcome in zip(CANDIDATES, outcomes, strict=True):
        if isinstance(outcome, KernelJudgeError):
            print(f"{name}: {outcome}")
        elif outcome.verdict is not Verdict.ACCEPTED:
            print(f"{name}: {outcome.verdict}")
        elif isinstance(outcome, CompareResponse) and outcome.speedup is not None:
            speedups[name] = outcome.speedup
    for name, speedup in sorted(speedups.items(), key=lambda entry: -entry[1]):
        print(f"{name}: {speedup:.2f} times as fast")


async def watched(client: AsyncKernelJudgeClient, kernel: KernelCode) -> None:
    """Shows the phases of a job as it goes through them."""
    job = await client.submit(EvaluateRequest(kernel=kernel, num_trials=20), priority=5)
    async for event in client.stream(job.job_id):
        if isinstance(event, JobEventResponse):
            print(f"event {event.number}: {event.status}")
        elif event.result is not None:
            print(f"its verdict: {event.result['verdict']}")


async def submitted_twice(client: AsyncKernelJudgeClient, kernel: KernelCode) -> None:
    """A key of one's own makes a submission safe to repeat, also after a crash of this program."""
    request = EvaluateRequest(kernel=kernel, num_trials=20)
    key = f"round-1-candidate-7-{uuid.uuid4()}"
    first = await client.submit(request, idempotency_key=key)
    again = await client.submit(request, idempotency_key=key)
    assert first.job_id == again.job_id
    result = await client.wait(first.job_id)
    print(f"submitted twice, judged once: {result.verdict}")


async def cancelled(client: AsyncKernelJudgeClient) -> None:
    """Ends a job that would run until its time is over; the device goes to the next one."""
    endless = KernelCode(source_code=ENDLESS, kernel_type="torch")
    job = await client.submit(EvaluateRequest(kernel=endless), deadline=300)
    async for event in client.stream(job.job_id):
        if event.status == "validating":
            await client.cancel(job.job_id)
    try:
        await client.wait(job.job_id)
    except JobCancelled as error:
        print(f"cancelled: {error.job.status}")


async def refused(client: AsyncKernelJudgeClient) -> None:
    """A mistake in a request is told field by field."""
    try:
        await client.evaluate({"kernel_type": "torch"}, num_trials=0)
    except RequestError as error:
        for issue in error.validation_errors:
            print(f"{issue.field}: {issue.message}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the server; $KERNELJUDGE_URL, or localhost, if unset")
    url = parser.parse_args().url

    reference = KernelCode(source_code=REFERENCE, kernel_type="torch")
    async with AsyncKernelJudgeClient(url, client="advanced-patterns") as client:
        await best_of(client, reference)
        await watched(client, reference)
        # Waiting costs nothing: other work goes on meanwhile.
        await asyncio.gather(submitted_twice(client, reference), cancelled(client), refused(client))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KernelJudgeError as error:
        raise SystemExit(str(error)) from None
