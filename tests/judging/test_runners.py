"""What a runner is prepared for, and when others may disturb a measurement."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from kerneljudge import KernelCode, KernelType
from kerneljudge.contract import IOContract
from kerneljudge.judging.cancellation import Cancellation
from kerneljudge.judging.lease import Lease, Quiet, Turn
from kerneljudge.judging.runners import Runners, preparation_for

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
        with Turn(Lease(), quiet, Cancellation()) as turn, turn.timing():
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


def test_a_measurement_that_gives_up_its_turn_does_not_hold_back_the_next_job() -> None:
    lease, quiet = Lease(), Quiet()
    order: list[str] = []
    over = threading.Event()

    def next_job() -> None:
        with Turn(lease, quiet, Cancellation()), quiet.disturbing():
            order.append("disturbed")
            over.set()

    with Turn(lease, quiet, Cancellation()) as turn, turn.timing():
        other = threading.Thread(target=next_job, daemon=True)
        other.start()
        with turn.given_up():
            assert over.wait(30), "the next job waits for one that waits for it"
        order.append("measured")
        assert quiet.wanted
        late = threading.Thread(target=next_job, daemon=True)
        late.start()
    for thread in (other, late):
        thread.join(30)
    assert order == ["disturbed", "measured", "disturbed"]
    assert not quiet.wanted


class Runner:
    """A runner that is no process, and what the thread that made it is called."""

    made_ahead = threading.Event()

    def __init__(self, preparation: str) -> None:
        self.preparation = preparation
        self.child = SimpleNamespace(alive=True)
        self.made_by = threading.current_thread().name
        self.closed = threading.Event()

    @classmethod
    def start(cls, _zygote: object, preparation: str, _disturbing: object) -> Runner:
        runner = cls(preparation)
        if runner.made_by.startswith("standby"):
            cls.made_ahead.set()
        return runner

    def end(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


def test_runners_that_nobody_asks_for_give_way_to_those_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kerneljudge.judging.runners.RunnerProcess", Runner)
    zygote: Any = SimpleNamespace(lost=False)
    runners = Runners(lambda: zygote, Quiet(), 1, 0, lambda: None)
    first: Any = Runner("launches")
    runners.start(first)
    try:
        assert runners.take("streams").preparation == "streams"
        assert first.closed.wait(30)
        assert Runner.made_ahead.wait(30)
        ahead: Any = runners.take("streams")
        assert (ahead.preparation, ahead.made_by[:7]) == ("streams", "standby")
    finally:
        runners.close()


def test_what_would_disturb_does_not_begin_once_a_measurement_is_near() -> None:
    quiet = Quiet()
    begun = threading.Event()

    def disturb() -> None:
        with quiet.disturbing():
            begun.set()

    other = threading.Thread(target=disturb, daemon=True)
    with Turn(Lease(), quiet, Cancellation()) as turn:
        turn.approach()
        other.start()
        with turn.given_up():
            assert begun.wait(30)
        other.join(30)
        begun.clear()
        late = threading.Thread(target=disturb, daemon=True)
        late.start()
        with turn.timing():
            assert not begun.is_set()
    assert begun.wait(30)
    assert not quiet.wanted
