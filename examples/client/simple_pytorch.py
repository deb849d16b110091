"""A PyTorch model on its own, and a rewritten one against it.

python examples/client/simple_pytorch.py --url http://localhost:8000
"""

from __future__ import annotations

import argparse

from kerneljudge.client import KernelCode, KernelJudgeClient, KernelJudgeError

REFERENCE = """\
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def get_inputs():
    return [torch.randn(256, 256)]
"""

CANDIDATE = """\
import torch.nn as nn
import torch.nn.functional as F


class ModelNew(nn.Module):
    def forward(self, x):
        return F.silu(x)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the server; $KERNELJUDGE_URL, or localhost, if unset")
    url = parser.parse_args().url

    reference = KernelCode(source_code=REFERENCE, kernel_type="torch")
    candidate = KernelCode(source_code=CANDIDATE, kernel_type="torch")
    with KernelJudgeClient(url) as client:
        alone = client.evaluate(reference, num_trials=20)
        print(f"reference alone: {alone.verdict}, {alone.kernel_exec_result.runtime} ms")

        both = client.compare(reference, candidate, num_trials=20)
        print(f"candidate: {both.verdict}, {both.kernel_exec_result.runtime} ms")
        if both.speedup is not None:
            print(f"speedup: {both.speedup:.2f}")

        # A kernel that fails is a result, which says why.
        wrong = candidate.model_copy(
            update={"source_code": CANDIDATE.replace("F.silu(x)", "F.relu(x)")}
        )
        result = client.compare(reference, wrong, num_trials=20)
        print(f"a wrong one: {result.verdict}: {result.kernel_exec_result.validation_error}")


if __name__ == "__main__":
    try:
        main()
    except KernelJudgeError as error:
        raise SystemExit(str(error)) from None
