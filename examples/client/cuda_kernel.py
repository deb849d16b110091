"""A CUDA C++ kernel: compiled everywhere, run where there is a GPU.

python examples/client/cuda_kernel.py --url http://localhost:8000
"""

from __future__ import annotations

import argparse

from kerneljudge.client import (
    IOContractBuilder,
    KernelCode,
    KernelJudgeClient,
    KernelJudgeError,
    Verdict,
    create_randn_spec,
)

SOURCE = """\
extern "C" __global__ void saxpy(const float* x, const float* y, float* out, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = a * x[i] + y[i];
    }
}
"""

SIZE = 1 << 20
THREADS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="the server; $KERNELJUDGE_URL, or localhost, if unset")
    url = parser.parse_args().url

    contract = (
        IOContractBuilder()
        .add_input_tensor("x", create_randn_spec([SIZE], seed=1))
        .add_input_tensor("y", create_randn_spec([SIZE], seed=2))
        .add_output_tensor("out", shape=[SIZE])
        .add_scalar("a", "float", 2.0)
        .add_scalar("n", "int", SIZE)
        .set_grid(SIZE // THREADS)
        .set_block(THREADS)
        .build()
    )
    kernel = KernelCode(
        source_code=SOURCE,
        kernel_type="cuda",
        io=contract,
        metadata={"kernel_name": "saxpy", "compiler_options": ["--use_fast_math"]},
    )
    broken = kernel.model_copy(update={"source_code": SOURCE.replace("a * x[i]", "a * z[i]")})
    with KernelJudgeClient(url) as client:
        result = client.evaluate(kernel)
        if result.verdict is Verdict.UNSUPPORTED:
            print("This server has no GPU: the kernel was compiled, and not run.")
        else:
            print(f"{result.verdict}: {result.kernel_exec_result.runtime} ms")
        build = result.candidate.build
        if build is not None:
            print(
                f"built with {build.way} in {build.seconds:.2f} s, from the cache: {build.cached}"
            )

        result = client.evaluate(broken)
        print(f"a broken one: {result.verdict}\n{result.kernel_exec_result.compilation_error}")


if __name__ == "__main__":
    try:
        main()
    except KernelJudgeError as error:
        raise SystemExit(str(error)) from None
