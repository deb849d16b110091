"""What a runner is prepared for, and when others may disturb a measurement."""

from __future__ import annotations

import threading
import time

import pytest

from kerneljudge import KernelCode, KernelType
from kerneljudge.contract import IOContract
from kerneljudge.judging.lease import Quiet
from kerneljudge.judging.runners import preparation_for

pytestmark = pytest.mark.unit

CONTRACT = IOContract.model_validate(
    {
        "args": [{"name": "n", "type": "int", "value": 1}],
        "launch": {"grid": {"x": 1}, "block": {"x": 32}},
    }
)


def kernel(kernel_type: KernelType, source: str) -> KernelCode:
    metadata = {"entry_point": "run"} if kernel_type is KernelType.MULTI_KERNEL else None
    return KernelCode(source_code=source, kernel_type=kernel_type, io=CONTRACT, metadata=metadata)


@pytest.mark.parametrize(
    ("kernel_type", "source", "preparation"),
    [
        (KernelType.TRITON, "@triton.jit\ndef add(): ...", "launches"),
        (KernelType.CUDA, "__global__ void f(int n) {}", "launches"),
        (KernelType.TORCH, "def forward(x): return x @ x", "operators"),
        (KernelType.TORCH, "self.cell = nn.LSTM(8, 8)", "streams"),
        (KernelType.TORCH, "side = torch.cuda.Stream()", "streams"),
        (KernelType.MULTI_KERNEL, "getattr(torch.cuda, 'Str' + 'eam')", "streams"),
        (KernelType.TORCH_CUDA, "auto s = at::cuda::getCurrentCUDAStream();", "operators"),
        (KernelType.TORCH_CUDA, "auto s = at::cuda::getStreamFromPool();", "streams"),
        (KernelType.TORCH_CUDA, "cudaStreamCreate(&s);", "streams"),
    ],
)
def test_a_context_has_several_hardware_queues_where_a_source_may_use_them(
    kernel_type: KernelType, source: str, preparation: str
) -> None:
    assert preparation_for(kernel(kernel_type, source)) == preparation


def test_a_measurement_waits_for_what_disturbs_and_holds_back_what_would() -> None:
    quiet = Quiet()
    order: list[str] = []
    disturbing, let_go = threading.Event(), threading.Event()

    def disturb(name: str) -> None:
        with quiet.disturbing():
            order.append(f"{name} begins")
            disturbing.set()
            let_go.wait(30)
            order.append(f"{name} ends")

    def measure() -> None:
        with quiet.timing():
            order.append("measured")

    first = threading.Thread(target=disturb, args=("first",))
    first.start()
    assert disturbing.wait(30)
    measuring = threading.Thread(target=measure)
    measuring.start()
    while not quiet.wanted:  # until it waits for the first
        time.sleep(0.001)
    second = threading.Thread(target=disturb, args=("second",))
    second.start()
    let_go.set()
    for thread in (first, measuring, second):
        thread.join(30)
    assert order == ["first begins", "first ends", "measured", "second begins", "second ends"]
