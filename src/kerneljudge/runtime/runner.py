"""A runner: one kernel, in a process of its own, with nothing worth stealing.

Until `Ready` it is trusted code: it opens the device, warms what every kernel needs, and gives up
everything else. Then it reads submitted source, and from there on nothing it says is believed.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.dlpack import from_dlpack

from kerneljudge.building.requests import BuildRequest, BuildResult
from kerneljudge.languages import LANGUAGES
from kerneljudge.languages.base import (
    Language,
    LoadContext,
    LoadedKernel,
    LoadError,
    Refusal,
    Unsupported,
)
from kerneljudge.languages.python_module import module_name
from kerneljudge.runtime.channel import CHANNEL_DESCRIPTOR, Channel, ChannelClosed
from kerneljudge.runtime.memory import CudaError, OpenRegion, export
from kerneljudge.runtime.messages import (
    Attach,
    Attached,
    Build,
    Built,
    Collect,
    Collected,
    Failed,
    Fork,
    FromJudge,
    Load,
    Loaded,
    Made,
    MakeInputs,
    Profile,
    Profiled,
    Ran,
    Ready,
    Rest,
    Rested,
    Run,
    SlotLayout,
    ToRunner,
    Waiting,
)
from kerneljudge.runtime.sandbox import Policy, confine, detach_network
from kerneljudge.runtime.values import TensorMeta, Value, ValueUnsupported, restore, strip
from kerneljudge.runtime.warmup import open_driver, steps
from kerneljudge.schema import Phase
from kerneljudge.timing.clocks import measure

__all__ = ["Runner", "failure", "main"]

_PHASES: dict[str, Phase] = {
    "load": Phase.LOAD,
    "make_inputs": Phase.CHECK,
    "attach": Phase.CHECK,
    "run": Phase.CHECK,
    "collect": Phase.CHECK,
    "profile": Phase.PROFILE,
    "rest": Phase.PROFILE,
}
_MAX_TEXT = 20_000


class _Slot(NamedTuple):
    region: OpenRegion
    arguments: list[Any]
    pointers: dict[tuple[int, tuple[int, ...]], int]
    """(address, shape) of each tensor → its index, to know it again in what is returned."""


def main(fork: Fork) -> None:
    """Entry of a forked runner."""
    channel = Channel(socket.socket(fileno=CHANNEL_DESCRIPTOR), FromJudge, takes_descriptors=True)
    scratch = Path(fork.scratch)
    os.chdir(scratch)
    os.environ.update(
        HOME=fork.scratch,
        TMPDIR=fork.scratch,
        TRITON_CACHE_DIR=str(scratch / "triton"),
        TORCHINDUCTOR_CACHE_DIR=str(scratch / "inductor"),
        TORCH_EXTENSIONS_DIR=str(scratch / "extensions"),
        CUPY_CACHE_DIR=str(scratch / "cupy"),
    )
    network = detach_network()
    device = torch.device("cuda", 0) if fork.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        _prepare(channel, device, fork)
    layers = confine(
        Policy(
            scratch=scratch,
            uid=fork.uid,
            max_data_bytes=fork.max_data_bytes,
            layers=[network],
        )
    )
    channel.send(Ready(layers=layers))
    Runner(channel, device, scratch, LANGUAGES).serve()


def _prepare(channel: Channel[ToRunner], device: torch.device, fork: Fork) -> None:
    """Opens the device, and waits before each step until nothing is being measured."""
    open_driver(fork.preparation)
    for step in steps(device, fork.preparation, Path(fork.triton_seed)):
        channel.send(Waiting())
        channel.receive()
        step()


class Runner:
    """Answers the judge's requests, one at a time, until it is killed or the judge is gone."""

    def __init__(
        self,
        channel: Channel[ToRunner],
        device: torch.device,
        scratch: Path,
        languages: dict[Any, Language],
    ) -> None:
        self._channel = channel
        self._device = device
        self._scratch = scratch
        self._languages = languages
        self._request = 0
        self._kernel: LoadedKernel | None = None
        self._source = ""
        self._attached: tuple[OpenRegion, list[SlotLayout]] | None = None
        self._slots: list[_Slot] = []
        self._names: list[str] | None = None
        self._tensors: list[torch.Tensor] = []
        self._answers: dict[type, Callable[[Any], Any]] = {
            Load: self._load,
            MakeInputs: self._make_inputs,
            Attach: self._attach,
            Run: self._run,
            Collect: self._collect,
            Profile: self._profile,
            Rest: self._rest,
        }

    def serve(self) -> None:
        """Returns when the judge is gone."""
        while True:
            try:
                request = self._channel.receive()
            except ChannelClosed:
                return
            self._request = request.request
            try:
                answer = self._answers[type(request)](request)
            except BaseException as error:
                answer = failure(error, request)
            sys.stdout.flush()
            sys.stderr.flush()
            self._channel.send(answer)

    @property
    def _loaded(self) -> LoadedKernel:
        if self._kernel is None:
            raise RuntimeError("no kernel is loaded")
        return self._kernel

    def _load(self, request: Load) -> Loaded:
        context = LoadContext(
            device=self._device,
            side=request.side,
            seed=request.seed,
            scratch=self._scratch,
            build=self._build,
            built=request.built,
            init_inputs=None if request.init_inputs is None else restore(request.init_inputs, []),
        )
        kernel = self._languages[request.kernel.kernel_type].load(request.kernel, context)
        self._synchronize()
        kernel.input_names = self._names
        self._kernel = kernel
        self._source = request.kernel.source_code
        init_inputs: Value | None = None
        if kernel.init_inputs is not None:
            init_inputs, tensors = strip(kernel.init_inputs, _is_tensor)
            if tensors:
                # They cannot be handed on as plain data: a candidate must make its own.
                init_inputs = None
        return Loaded(
            request=request.request,
            kernel_name=kernel.name[:1000],
            init_inputs=init_inputs,
            notes=[note[:2000] for note in kernel.notes][:16],
        )

    def _build(self, request: BuildRequest) -> BuildResult:
        """Has something built, on behalf of whatever the judge is waiting for."""
        self._channel.send(Build(request=self._request, build=request))
        answer = self._channel.receive()
        if not isinstance(answer, Built):
            raise RuntimeError(f"expected an answer to a build, got {answer.type!r}")
        return answer.result

    def _make_inputs(self, request: MakeInputs) -> Made:
        torch.manual_seed(request.seed)
        with torch.no_grad():
            inputs = self._loaded.make_inputs()
        if inputs is None:
            raise LoadError(
                "the source defines no get_inputs()", "Define it, or give an io_contract."
            )
        self._synchronize()
        value, metas = self._hold(list(inputs), None)
        return Made(
            request=request.request, value=value, names=self._loaded.input_names, tensors=metas
        )

    def _attach(self, request: Attach) -> Attached:
        region = OpenRegion(request.region, self._channel.take_descriptors(), self._device)
        self._names = self._loaded.input_names = request.names
        self._attached = region, request.slots
        self._lay_out()
        return Attached(request=request.request)

    def _lay_out(self) -> None:
        """Makes the arguments of every slot, whatever a kernel did to those that it had."""
        self._slots = []
        if self._attached is None:
            return
        region, layouts = self._attached
        for slot in layouts:
            tensors = [region.tensor(placement) for placement in slot.placements]
            pointers = {
                (tensor.data_ptr(), tuple(tensor.shape)): index
                for index, tensor in enumerate(tensors)
                if tensor.numel()
            }
            self._slots.append(_Slot(region, restore(slot.arguments, tensors), pointers))

    def _run(self, request: Run) -> Ran:
        slot = self._slots[request.slot]
        self._tensors = []
        slot.region.pull()
        torch.manual_seed(request.seed)
        with torch.no_grad():
            returned = self._loaded(slot.arguments)
        self._synchronize()
        slot.region.push()
        value, metas = self._hold(returned, slot)
        return Ran(request=request.request, value=value, tensors=metas)

    def _collect(self, request: Collect) -> Collected:
        if request.region is None:
            try:
                exports = [export(tensor) for tensor in self._tensors]
            except CudaError as error:
                return Collected(request=request.request, failure=str(error))
            return Collected(request=request.request, exports=exports)
        region = OpenRegion(request.region, self._channel.take_descriptors(), self._device)
        for tensor, placement in zip(self._tensors, request.placements, strict=True):
            region.tensor(placement).copy_(tensor)
        region.push()
        self._synchronize()
        return Collected(request=request.request)

    def _profile(self, request: Profile) -> Profiled:
        slots = [self._slots[number] for number in request.slots]
        for slot in slots:
            slot.region.pull()
        torch.manual_seed(request.seed)
        with torch.no_grad():
            measurement = measure(
                [partial(self._loaded, slot.arguments) for slot in slots],
                device=self._device,
                warmup=request.warmup,
                samples=request.samples,
                clock=request.clock,
            )
        return Profiled(
            request=request.request,
            clock=measurement.clock,
            fallback_reason=measurement.fallback_reason,
            samples_ms=measurement.samples_ms,
        )

    def _rest(self, request: Rest) -> Rested:
        if self._kernel is not None:
            self._kernel.close()
        self._kernel = None
        sys.modules.pop(module_name(self._source), None)
        self._tensors = []
        self._lay_out()
        gc.collect()
        self._synchronize()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return Rested(request=request.request)

    def _hold(self, value: Any, slot: _Slot | None) -> tuple[Value, list[TensorMeta]]:
        """Keeps the value's tensors for the next `collect`, and describes them."""
        tree, tensors = strip(value, _is_tensor)
        metas = []
        held = []
        for item in tensors:
            tensor = _plain(item)
            pointer = (tensor.data_ptr(), tuple(tensor.shape))
            metas.append(
                TensorMeta(
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    shape=list(tensor.shape),
                    device="cuda" if tensor.device.type == "cuda" else "cpu",
                    alias=slot.pointers.get(pointer) if slot is not None else None,
                )
            )
            held.append(tensor.to(self._device))
        self._tensors = held
        self._synchronize()
        return tree, metas

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or hasattr(value, "__dlpack__")


def _plain(value: Any) -> torch.Tensor:
    """A strided tensor with real memory, whatever array was returned."""
    tensor = value if isinstance(value, torch.Tensor) else from_dlpack(value)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise ValueUnsupported(
            f"a {type(tensor).__qualname__} was returned; return a plain torch.Tensor"
        )
    if tensor.layout != torch.strided or tensor.device.type not in ("cuda", "cpu"):
        raise ValueUnsupported(
            f"a {tensor.layout} tensor on {tensor.device} was returned; return a dense one on the"
            " device of the inputs"
        )
    if tensor.is_quantized:
        raise ValueUnsupported("a quantized tensor was returned; return its int_repr()")
    return tensor.detach().resolve_conj().resolve_neg()


def failure(error: BaseException, request: Any) -> Failed:
    """What the judge is told of an exception that answers a request."""
    phase = _PHASES[request.type]
    loading = phase is Phase.LOAD
    kind: Literal["refused", "compile_error", "runtime_error", "out_of_memory", "unsupported"]
    if isinstance(error, Refusal):
        kind = "refused"
    elif isinstance(error, Unsupported):
        kind = "unsupported"
    elif _is_out_of_memory(error):
        kind = "out_of_memory"
    else:
        kind = "compile_error" if loading else "runtime_error"
    told = isinstance(error, Refusal | LoadError)
    message = str(error) if told else f"{type(error).__name__}: {error}".removesuffix(": ")
    return Failed(
        request=request.request,
        kind=kind,
        phase=phase,
        message=message[:_MAX_TEXT],
        hint=getattr(error, "hint", None) if told else None,
        traceback=None if told else _submitted_traceback(error)[-_MAX_TEXT:],
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # CuPy's, without importing it
        return True
    # torch's allocator for the host raises a plain RuntimeError; that for the device too, where it
    # cannot ask NVML how much memory there is.
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text
        or "CUDA_ERROR_OUT_OF_MEMORY" in text
        or ("nvmlInit" in text and "CUDACachingAllocator" in text)
    )


def _submitted_traceback(error: BaseException) -> str:
    """The traceback from the first frame of submitted code on: what is ours helps nobody."""
    lines = traceback.TracebackException.from_exception(error)
    ours = str(Path(__file__).parent.parent)
    while len(lines.stack) > 1 and lines.stack[0].filename.startswith(ours):
        del lines.stack[0]
    return "".join(lines.format())
