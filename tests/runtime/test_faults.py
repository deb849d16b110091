"""How a runner names what submitted code raised."""

from __future__ import annotations

import pytest
import torch

from kerneljudge.languages import LoadError, Refusal, Unsupported
from kerneljudge.runtime.messages import Load, Run
from kerneljudge.runtime.runner import failure
from kerneljudge.schema import KernelCode

pytestmark = pytest.mark.unit

RUN = Run(request=7, slot=0, seed=1)
LOAD = Load(
    request=8,
    kernel=KernelCode.model_validate({"source_code": "x", "kernel_type": "torch"}),
    side="candidate",
    seed=1,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "out_of_memory"),
        (
            # What torch 2.11 raises for an allocation that fails where NVML cannot be opened.
            RuntimeError(
                "NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "
                '"/pytorch/c10/cuda/CUDACachingAllocator.cpp":1135'
            ),
            "out_of_memory",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "runtime_error"),
        (SystemExit(0), "runtime_error"),
        (KeyboardInterrupt(), "runtime_error"),
        (Refusal("no", "do"), "refused"),
        (Unsupported("not here"), "unsupported"),
    ],
)
def test_an_exception_while_running_is_told_by_kind(error: BaseException, kind: str) -> None:
    told = failure(error, RUN)
    assert (told.request, told.kind, told.phase) == (7, kind, "check")


def test_an_exception_while_loading_is_a_compile_error_with_its_hint() -> None:
    told = failure(LoadError("Class 'Model' not found", "Define it."), LOAD)
    assert (told.kind, told.phase) == ("compile_error", "load")
    assert (told.message, told.hint, told.traceback) == (
        "Class 'Model' not found",
        "Define it.",
        None,
    )


def test_a_message_is_cut_to_what_the_channel_takes() -> None:
    told = failure(ValueError("x" * 10_000_000), RUN)
    assert len(told.message) < 50_000
    assert told.traceback is not None
    assert len(told.traceback) < 50_000
