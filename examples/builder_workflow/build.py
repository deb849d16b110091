"""The manual's complete workflow: a contract from the builder, a kernel, and a request as JSON.

python examples/builder_workflow/build.py > request.json
curl -H "Content-Type: application/json" -d @request.json http://localhost:8000/evaluate
"""

from __future__ import annotations

from pathlib import Path

from kerneljudge import (
    EvaluateRequest,
    IOContractBuilder,
    KernelCode,
    KernelType,
    LaunchConfig,
    LaunchDim,
    create_randn_spec,
    to_json,
)


def build() -> EvaluateRequest:
    """An /evaluate request for the vector addition beside this file."""
    io_contract = (
        IOContractBuilder()
        .add_input_tensor("x_ptr", create_randn_spec([4096], dtype="float32", seed=42))
        .add_input_tensor("y_ptr", create_randn_spec([4096], dtype="float32", seed=43))
        .add_output_tensor("z_ptr", shape=[4096], dtype="float32")
        .add_scalar("n_elements", "int", 4096)
        .add_meta_param("BLOCK_SIZE", value=256)
        .set_launch_config(
            LaunchConfig(
                grid=LaunchDim(x=16),  # 4096 / 256 = 16 blocks
                num_warps=4,
            )
        )
        .build()
    )
    kernel = KernelCode(
        source_code=(Path(__file__).parent / "kernel.py").read_text(encoding="utf-8"),
        kernel_type=KernelType.TRITON,
        io=io_contract,
    )
    return EvaluateRequest(kernel=kernel, num_trials=100)


if __name__ == "__main__":
    print(to_json(build().model_dump(mode="json", exclude_none=True), pretty=True))
