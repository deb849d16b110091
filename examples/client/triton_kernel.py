"""A Triton kernel, whose inputs, outputs and launch a contract describes.

python examples/client/triton_kernel.py --url http://localhost:8000
"""

from __future__ import annotations

import argparse

from kerneljudge.client import (
    IOContract,
    IOContractBuilder,
    KernelCode,
    KernelJudgeClient,
    KernelJudgeError,
    create_randn_spec,
    to_json,
)

SOURCE = """\
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(out_ptr + offsets, x + y, mask=mask)
"""

REFERENCE = """\
def add(x, y):
    return x + y
"""

SIZE = 4096
BLOCK = 1024


def contract() -> IOContract:
    return (
        IOContractBuilder()
        .add_input_tensor("x_ptr", create_randn_spec([SIZE], seed=42))
        .add_input_tensor("y_ptr", create_randn_spec([SIZE], seed=43))
        .add_output_tensor("out_ptr", shape=[SIZE])
        .add_scalar("n_elements", "int", SIZE)
        .add_meta_param("BLOCK_SIZE", BLOCK)
        .set_grid(SIZE // BLOCK)
        .set_num_warps(4)
        .build()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the server; $KERNELJUDGE_URL, or localhost, if unset")
    url = parser.parse_args().url

    kernel = KernelCode(source_code=SOURCE, kernel_type="triton", io=contract())
    # The reference takes the tensors of the candidate's contract.
    reference = KernelCode(
        source_code=REFERENCE, kernel_type="torch", metadata={"function_name": "add"}
    )
    print(f"the contract has {len(to_json(contract()))} characters of JSON")
    with KernelJudgeClient(url, timeout=180) as client:
        result = client.compare(reference, kernel, num_trials=20, atol=1e-5, rtol=1e-5)
    print(f"{result.verdict} with seed {result.seed}")
    if result.fault is not None:
        print(result.fault.message)
    for side, times in (
        ("PyTorch", result.ref_runtime),
        ("Triton", result.kernel_exec_result.runtime_stats),
    ):
        if times is not None:
            print(f"{side}: {times.median} ms (median), {times.percentile_95} ms (95 %)")


if __name__ == "__main__":
    try:
        main()
    except KernelJudgeError as error:
        raise SystemExit(str(error)) from None
