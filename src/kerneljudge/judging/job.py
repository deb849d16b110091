"""One job, from source to verdict."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import torch

from kerneljudge.building import BuildResult
from kerneljudge.judging.builds import place
from kerneljudge.judging.cancellation import Cancellation, Cancelled
from kerneljudge.judging.correctness import (
    Output,
    Tolerance,
    compare_all,
    indifferent,
)
from kerneljudge.judging.inputs import Inputs, for_runner, from_contract, from_made, lend
from kerneljudge.judging.lease import Turn
from kerneljudge.judging.machine import Machine
from kerneljudge.judging.processes import Killed, RunnerFault, ZygoteLost
from kerneljudge.judging.seeds import derive, draw
from kerneljudge.judging.sessions import Session, reference_key
from kerneljudge.judging.tensors import poison
from kerneljudge.languages import LANGUAGES, Refusal
from kerneljudge.runtime.memory import OutOfDeviceMemory, layout
from kerneljudge.runtime.messages import (
    Attach,
    Attached,
    Build,
    Built,
    Load,
    Loaded,
    Made,
    MakeInputs,
    Profile,
    Profiled,
    Ran,
    Run,
    SlotLayout,
)
from kerneljudge.runtime.values import TensorMeta, TensorValue, Value, leaves, restore
from kerneljudge.schema import (
    DEFAULT_TOLERANCE,
    BuildReport,
    CheckReport,
    ClockReport,
    CompareRequest,
    Fault,
    FaultKind,
    JobReport,
    JobRequest,
    KernelCode,
    KernelType,
    Phase,
    Side,
    SideReport,
    Verdict,
    memory_bytes,
)
from kerneljudge.timing import summarize

__all__ = ["judge"]

_ZYGOTES = 3
"""Times that a job is begun, where the zygote dies under it."""
_KILLS = 2
"""Times that a job is begun, where something kills its runner or builder."""

_TRIALS_OF_APPROACH = 1
"""Trials before a measurement in which nothing begins that would disturb it, so that what is under
way ends meanwhile."""

_FAULTS = {
    "compile_error": FaultKind.COMPILE_ERROR,
    "timeout": FaultKind.TIMEOUT,
    "out_of_memory": FaultKind.OUT_OF_MEMORY,
    "unavailable": FaultKind.UNSUPPORTED,
}


class _TooLarge(Exception):
    """The job's tensors need more memory than there is for them."""


class _Stale(Exception):
    """A reference failed in a runner that had served other jobs; it may not be its fault."""


class _Stop(Exception):
    """The job is decided; the report says how."""


@dataclass
class _Contender:
    """One kernel of the job."""

    side: Side
    kernel: KernelCode
    report: SideReport
    built: list[BuildResult] = field(default_factory=list)
    key: str | None = None
    """By which a runner that ran the reference before is found; None for a candidate, and where
    none may be used again."""
    opened: Session | None = None
    failed: bool = False
    restored: bool = False
    """Whether it was given what Triton had compiled for its source before."""

    @property
    def session(self) -> Session:
        """Its runner, once it has one."""
        if self.opened is None:
            raise RuntimeError(f"the {self.side} has no runner yet")
        return self.opened


def judge(
    machine: Machine,
    request: JobRequest,
    progress: Callable[[JobReport], None],
    cancellation: Cancellation,
) -> JobReport:
    """Judges one job; `progress` gets the report after each phase.

    Never raises for what a kernel does: the report tells it. Raises `Cancelled`, once nothing of
    the job is left.
    """
    zygotes = kills = 0
    while True:
        job = _Job(machine, request, progress, cancellation, last=kills + 1 == _KILLS)
        try:
            _run(job)
        except _Stale:
            continue
        except ZygoteLost as error:
            # The machinery failed, no kernel: the job begins again.
            zygotes += 1
            job.report.verdict = Verdict.INTERNAL_ERROR
            job.report.error = str(error)
            if _restarted(machine) and zygotes < _ZYGOTES:
                continue
        except Killed:
            kills += 1
            continue
        finally:
            machine.free_cache()
        return job.report


def _restarted(machine: Machine) -> bool:
    try:
        machine.restart_zygote_if_lost()
    except ZygoteLost:
        return False
    return True


def _run(job: _Job) -> None:
    """Runs a job to its end, whatever it is.

    Raises `Cancelled`, and where it is to begin again, `ZygoteLost`, `Killed` or `_Stale`.
    """
    try:
        with ExitStack() as stack:
            job.run(stack)
    except _Stop:
        pass
    except (ZygoteLost, Cancelled, _Stale):
        raise
    except (torch.OutOfMemoryError, OutOfDeviceMemory, _TooLarge) as error:
        job.report.verdict = Verdict.OUT_OF_MEMORY
        job.report.error = (
            "the job's inputs and outputs do not fit on the device beside each other:"
            f" {str(error).splitlines()[0]}"
        )
    except Exception as error:
        if isinstance(error, Killed) and not job.last:
            raise
        # The judge's own mistake must end this job, and no other.
        job.report.verdict = Verdict.INTERNAL_ERROR
        job.report.error = traceback.format_exc()


class _Job:
    def __init__(
        self,
        machine: Machine,
        request: JobRequest,
        progress: Callable[[JobReport], None],
        cancellation: Cancellation,
        *,
        last: bool,
    ) -> None:
        self.last = last
        """Whether it does not begin again where something kills its runner or builder."""
        self._machine = machine
        self._request = request
        self._progress = progress
        self._cancellation = cancellation
        self._turn = Turn(machine.lease, machine.quiet, cancellation)
        self._away = 0.0
        """Seconds for which its turn was given up."""
        self._deadline = time.monotonic() + request.timeout
        self._seed = request.seed if request.seed is not None else draw()
        reports = {side: SideReport() for side in request.kernels}
        self._contenders = [
            _Contender(side, kernel, reports[side]) for side, kernel in request.kernels.items()
        ]
        self.report = JobReport(
            verdict=Verdict.INTERNAL_ERROR,
            phase=Phase.READ,
            candidate=reports["candidate"],
            reference=reports.get("reference"),
            seed=self._seed,
            transport=machine.transport,
            transport_reason=machine.transport_reason,
            environment=machine.environment,
        )
        self._tolerance: Tolerance | None = None
        if isinstance(request, CompareRequest):
            self._tolerance = Tolerance(
                DEFAULT_TOLERANCE if request.atol is None else request.atol,
                DEFAULT_TOLERANCE if request.rtol is None else request.rtol,
                exact_integers=request.atol is None and request.rtol is None
                if request.exact_integers is None
                else request.exact_integers,
            )
            self.report.atol, self.report.rtol = self._tolerance.atol, self._tolerance.rtol
            self.report.exact_integers = self._tolerance.exact_integers

    def run(self, stack: ExitStack) -> None:
        """All phases. Raises `_Stop` where the job is decided early."""
        with self._phase(Phase.READ):
            for contender in self._contenders:
                with self._blame(contender):
                    self._read(contender)
        with self._phase(Phase.BUILD):
            for contender in self._contenders:
                with self._blame(contender):
                    self._build(contender)
        with self._not_charged():
            stack.enter_context(self._turn)
            self._machine.make_room()
        with self._phase(Phase.LOAD):
            self._load(stack)
        with self._phase(Phase.CHECK):
            self._check_size()
            self._check()
        with self._phase(Phase.PROFILE):
            self._profile()
        self.report.verdict = Verdict.ACCEPTED
        self.report.phase = Phase.DONE

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        self._cancellation.check()
        self.report.phase = phase
        self._progress(self.report)
        started, away = time.monotonic(), self._away
        try:
            yield
        finally:
            self.report.phase_seconds[phase] = time.monotonic() - started - (self._away - away)
            for contender in self._contenders:
                if contender.opened is not None:
                    contender.report.stdout = contender.opened.runner.child.printed

    @contextmanager
    def _not_charged(self) -> Iterator[None]:
        """For waiting that is not the job's own doing: its deadline moves on."""
        waiting = time.monotonic()
        try:
            yield
        finally:
            self._deadline += time.monotonic() - waiting

    @contextmanager
    def _blame(self, contender: _Contender) -> Iterator[None]:
        """Turns what a kernel did wrong into the verdict."""
        try:
            yield
        except RunnerFault as fault:
            contender.failed = True
            self._cancellation.check()
            if contender.report.reused:
                self._begin_again(contender, fault)
            if isinstance(fault, Killed) and not self.last:
                raise
            self._fail(
                contender,
                Fault(
                    kind=fault.kind,
                    side=contender.side,
                    phase=self.report.phase,
                    message=fault.message,
                    hint=fault.hint,
                    traceback=fault.traceback,
                    exit_code=fault.exit_code,
                ),
            )

    def _fail(self, contender: _Contender, fault: Fault) -> None:
        contender.report.fault = fault
        self.report.fault = fault
        self.report.verdict = (
            Verdict.REFERENCE_FAILED if contender.side == "reference" else Verdict(fault.kind)
        )
        raise _Stop

    def _read(self, contender: _Contender) -> None:
        kernel = contender.kernel
        try:
            LANGUAGES[kernel.kernel_type].read(kernel, contender.side)
        except Refusal as refusal:
            raise RunnerFault(FaultKind.REFUSED, refusal.message, hint=refusal.hint) from None
        if contender.side == "reference":
            # Now, since it takes time, and no device is held yet.
            contender.key = reference_key(kernel)

    def _build(self, contender: _Contender) -> None:
        language = LANGUAGES[contender.kernel.kernel_type]
        contender.report.build = BuildReport(
            way="none" if contender.kernel.kernel_type is KernelType.TORCH else "jit"
        )
        for request in language.builds(contender.kernel, self._machine.architecture):
            result, waited = self._machine.builds.build(request, self._deadline, self._cancellation)
            self._deadline += waited
            self._note_build(contender, result)
            if not result.ok:
                raise RunnerFault(
                    _FAULTS[result.fault or "compile_error"],
                    _first_error(result.log),
                    hint=result.hint,
                    traceback=result.log,
                )
            contender.built.append(result)

    def _note_build(self, contender: _Contender, result: BuildResult) -> None:
        before = contender.report.build
        contender.report.build = BuildReport(
            way=result.way,
            reason=result.reason,
            cached=result.cached
            and (before is None or before.way in ("none", "jit") or before.cached),
            hits=(before.hits if before else 0) + result.cached,
            misses=(before.misses if before else 0) + (not result.cached),
            seconds=result.seconds + (before.seconds if before else 0.0),
            architecture=self._machine.architecture,
            log=result.log or None,
        )

    def _load(self, stack: ExitStack) -> None:
        """Both sources, at once where neither may ask for a build: the device is given up then."""
        begun: list[tuple[_Contender, int]] = []
        for contender in self._contenders:
            session = None
            if contender.key is not None:
                session = self._machine.runners.take_resting(contender.key)
            if session is None:
                with self._not_charged():
                    session = self._machine.open_session(contender.kernel)
            contender.opened = session
            contender.report.reused = session.jobs
            stack.callback(self._let_go, contender)
            stack.enter_context(self._cancellation.ending(session.runner.child.stop))
        init_inputs: Value | None = None
        together = not self._may_build and not any(
            _takes_init_inputs(contender.kernel) for contender in self._contenders
        )
        for contender in self._contenders:
            with self._blame(contender):
                begun.append((contender, self._begin_load(contender, init_inputs)))
                if not together:
                    init_inputs = self._finish_load(*begun.pop())
        for contender, number in begun:
            with self._blame(contender):
                self._finish_load(contender, number)

    @property
    def _may_build(self) -> bool:
        """Whether a kernel may ask for a build, for which the device is given up: no other kernel
        of the job may run then."""
        return any(
            contender.kernel.kernel_type in (KernelType.TORCH_CUDA, KernelType.MULTI_KERNEL)
            for contender in self._contenders
        )

    def _let_go(self, contender: _Contender) -> None:
        """Hands a runner over to be ended, or kept; that of a cancelled job has ended by then."""
        session = contender.session
        if self._cancellation.asked:
            with suppress(ZygoteLost):
                session.runner.child.kill()
        # Until something else is known, the verdict is that the judge has failed.
        unclear = self.report.verdict is Verdict.INTERNAL_ERROR or contender.failed
        # A capture that fails leaves torch's generator capturing: it refuses what comes next.
        clock = contender.report.clock
        spoilt = clock is not None and clock.fallback_reason is not None
        if contender.key is None or unclear or spoilt or self._cancellation.asked:
            self._machine.runners.retire(session)
        else:
            self._machine.runners.rest(contender.key, session)

    def _begin_again(self, contender: _Contender, fault: RunnerFault) -> NoReturn:
        """A reference failed in a runner that had run it before: that may not be its own doing.
        Unless something else killed the runner, it has a new one each time from here on."""
        if contender.key is not None and not isinstance(fault, Killed):
            self._machine.runners.refuse(contender.key)
        raise _Stale from fault

    def _begin_load(self, contender: _Contender, init_inputs: Value | None) -> int:
        runner = contender.session.runner
        runner.build = partial(self._answer_build, contender)
        contender.restored = self._machine.triton_cache.restore(
            contender.kernel, runner.child.scratch / "triton"
        )
        kernel = contender.kernel.model_copy(update={"io": for_runner(contender.kernel.io)})
        built = [place(result, runner.child.scratch) for result in contender.built]
        # One that rested stands still until its folder is as it is to be.
        runner.child.thaw()
        return runner.begin(
            Load,
            deadline=self._deadline,
            kernel=kernel,
            side=contender.side,
            seed=derive(self._seed, "load"),
            built=built,
            init_inputs=init_inputs,
        )

    def _answer_build(self, contender: _Contender, message: Build) -> tuple[Built, float]:
        """Has a builder make what the kernel asks for; other jobs may use the device meanwhile.

        With the answer come the seconds that the job then waited for its turn, which are not its
        own.
        """
        runner = contender.session.runner
        # What for is the judge's to say.
        request = message.build.model_copy(update={"architecture": self._machine.architecture})
        left = time.monotonic()
        with self._turn.given_up():
            result, waited = self._machine.builds.build(request, self._deadline, self._cancellation)
            waiting = time.monotonic()
        back = time.monotonic()
        waited += back - waiting
        self._deadline += waited
        # The device was others' meanwhile: no time of a phase that has it.
        self._away += back - left
        self.report.phase_seconds[Phase.BUILD] += back - left - waited
        self._note_build(contender, result)
        if result.ok:
            try:
                result = place(result, runner.child.scratch)
            except OSError as error:
                raise RunnerFault(
                    FaultKind.RUNTIME_ERROR,
                    f"what was built cannot be put into its folder: {error.strerror}",
                    hint="Leave the folder that the kernel runs in as it is.",
                ) from error
        return Built(request=message.request, result=result), waited

    def _finish_load(self, contender: _Contender, number: int) -> Value | None:
        loaded = contender.session.runner.finish(number, Loaded, deadline=self._deadline)
        contender.report.compiled = True
        contender.report.kernel_name = loaded.kernel_name
        contender.report.notes = loaded.notes
        return loaded.init_inputs

    def _collect(self, contender: _Contender, metas: list[TensorMeta]) -> list[torch.Tensor]:
        """Copies of the tensors that a runner's last answer counted."""
        transport = contender.session.transport
        tensors = transport.collect(metas, self._deadline, self._machine.max_result_bytes)
        if transport.staging_reason is not None:
            self.report.transport = "host_staging"
            self.report.transport_reason = transport.staging_reason
        return tensors

    def _check(self) -> None:
        earlier: list[Output] | None = None
        indifference: list[dict[str, bool]] = []
        wrong: str | None = None
        for trial in range(self._request.num_checks):
            self._cancellation.check()
            seed = derive(self._seed, "run", trial)
            if trial >= self._request.num_checks - _TRIALS_OF_APPROACH:
                self._turn.approach()
            outputs = self._run_all(trial, seed)
            check = CheckReport(trial=trial, seed=seed, passed=True)
            self.report.checks.append(check)
            if self._tolerance is None:
                continue
            expected, actual = outputs
            if not expected:
                with self._blame(self._contenders[0]):
                    raise RunnerFault(
                        FaultKind.RUNTIME_ERROR,
                        "the reference gives nothing to compare: it returns no value, and its"
                        " contract has no output",
                        hint="Return the result, or give an argument the role `output`.",
                    )
            check.outputs, check.message = compare_all(expected, actual, self._tolerance)
            check.passed = check.message is None
            wrong = wrong or check.message
            try:
                indifference.append(indifferent(expected, earlier, self._tolerance))
            except torch.OutOfMemoryError:
                self.report.task_warnings.append(
                    "there was no memory left to find out whether a wrong answer would pass"
                )
            earlier = earlier or expected
            self._progress(self.report)
        self._warn(indifference)
        if wrong is not None:
            self.report.verdict = Verdict.WRONG_ANSWER
            raise _Stop

    def _run_all(self, trial: int, seed: int) -> list[list[Output]]:
        """Runs every kernel once; the outputs of each. Those that may, run beside each other."""
        outputs: list[list[Output]] = []
        begun: list[tuple[_Contender, Inputs, int]] = []
        given: Inputs | None = None

        def finish(contender: _Contender, inputs: Inputs, number: int) -> None:
            with self._blame(contender):
                outputs.append(self._outputs(contender, inputs, number))
            if trial == 0:
                self._keep_compiled(contender)

        for contender in self._contenders:
            with self._blame(contender):
                inputs = self._inputs(contender, trial, given)
                self._attach(contender, inputs, trial)
                runner = contender.session.runner
                number = runner.begin(Run, deadline=self._deadline, slot=0, seed=seed)
                begun.append((contender, inputs, number))
            given = given or inputs
            if self._may_build:
                finish(*begun.pop())
        for run in begun:
            finish(*run)
        return outputs

    def _keep_compiled(self, contender: _Contender) -> None:
        child = contender.session.runner.child
        folder = child.scratch / "triton"
        # Nothing may change under the judge's hands while it reads what submitted code wrote.
        child.freeze()
        try:
            compiled = self._machine.triton_cache.harvest(contender.kernel, folder)
        except OSError as error:
            contender.report.notes = [
                *contender.report.notes,
                f"what Triton compiled could not be kept: {error.strerror}",
            ]
            return
        finally:
            child.thaw()
        build = contender.report.build
        if build is not None and build.way == "jit":
            build.cached = contender.restored and not compiled
            build.hits, build.misses = int(build.cached), int(compiled)

    def _warn(self, indifference: list[dict[str, bool]]) -> None:
        kinds = [kind for found in indifference for kind in found]
        for kind in dict.fromkeys(kinds):
            verdicts = [found[kind] for found in indifference if kind in found]
            if verdicts and all(verdicts):
                self.report.task_warnings.append(
                    f"{kind} would pass: this task, with these tolerances, cannot tell right from"
                    " wrong"
                )

    def _inputs(self, contender: _Contender, trial: int, given: Inputs | None) -> Inputs:
        """The arguments of one trial for one kernel.

        The reference's (or sole kernel's) are its contract's, or its own `get_inputs`, or, where
        it has neither, those of the candidate's contract. The candidate's contract is given the
        reference's values; without a contract it gets the reference's arguments.
        """
        machine, contract = self._machine, contender.kernel.io
        if given is not None:
            if contract is None:
                lent = lend(given, self._contenders[0].kernel.kernel_type)
                self.report.inputs_from = {
                    parameter.name: f"the reference's {parameter.name!r}"
                    for parameter in lent.parameters
                }
                return lent
            inputs, self.report.inputs_from = from_contract(
                contract, machine.device, self._seed, trial, given
            )
            return inputs
        if contract is not None:
            inputs, origins = from_contract(contract, machine.device, self._seed, trial, None)
            if len(self._contenders) == 1:
                self.report.inputs_from = origins
            return inputs
        others = [other.kernel for other in self._contenders if other is not contender]
        try:
            made = contender.session.runner.ask(
                MakeInputs,
                Made,
                deadline=self._deadline,
                seed=derive(self._seed, "inputs", trial),
            )
        except RunnerFault as fault:
            lacking = fault.kind is FaultKind.RUNTIME_ERROR and fault.traceback is None
            if not lacking or not others or others[0].io is None:
                raise
            inputs, _ = from_contract(others[0].io, machine.device, self._seed, trial, None)
            return lend(inputs, others[0].kernel_type)
        inputs = from_made(made, self._collect(contender, made.tensors))
        if len(self._contenders) == 1:
            self.report.inputs_from = {
                parameter.name: "get_inputs()" for parameter in inputs.parameters
            }
        return inputs

    def _check_size(self) -> None:
        """Raises `_TooLarge` before the judge itself runs out of memory."""
        needed = memory_bytes(self._request)
        room = self._machine.max_result_bytes
        if needed > room:
            raise _TooLarge(
                f"the contract's tensors take {needed / 2**30:.1f} GiB in all, and there is room"
                f" for {room / 2**30:.1f} GiB"
            )

    def _attach(self, contender: _Contender, inputs: Inputs, trial: int) -> None:
        """Puts the arguments into memory that the runner sees, outputs poisoned."""
        session = contender.session
        parameters = inputs.parameters
        layout_key = inputs.layout_key()
        if session.attached != layout_key:
            placements, size = layout(
                [(parameter.dtype, parameter.shape, parameter.strides) for parameter in parameters]
            )
            region = session.transport.region(size)
            session.runner.ask(
                Attach,
                Attached,
                deadline=self._deadline,
                descriptors=region.descriptors,
                region=region.region,
                slots=[SlotLayout(arguments=inputs.tree, placements=placements)],
                names=inputs.names,
            )
            session.region, session.placements = region, placements
            session.attached = layout_key
        if session.region is None:
            raise RuntimeError("no region was made")
        for parameter, placement in zip(parameters, session.placements, strict=True):
            tensor = session.region.tensor(placement)
            if parameter.value is None:
                poison(tensor, trial)
            else:
                tensor.copy_(parameter.value)
        self._synchronize()

    def _outputs(self, contender: _Contender, inputs: Inputs, number: int) -> list[Output]:
        """What a kernel's run gives, in memory that no runner sees.

        They are the contract's outputs, in its order, and then what was returned, except for
        tensors that are those outputs themselves. For /evaluate nobody needs them.
        """
        session = contender.session
        ran = session.runner.finish(number, Ran, deadline=self._deadline)
        if self._tolerance is None:
            return []
        parameters = inputs.parameters
        region = session.region
        if region is None:
            raise RuntimeError("no region was made")
        outputs = [
            Output(parameter.name, region.tensor(placement).to(self._machine.device, copy=True))
            for parameter, placement in zip(parameters, session.placements, strict=True)
            if parameter.role != "input"
        ]
        self._synchronize()
        returned = self._collect(contender, ran.tensors)
        try:
            found = leaves(ran.value, "output")
        except ValueError as error:
            raise RunnerFault(FaultKind.PROTOCOL_ERROR, str(error)) from error
        for path, leaf in found:
            try:
                value = restore(leaf, returned)
            except ValueError as error:
                raise RunnerFault(FaultKind.PROTOCOL_ERROR, str(error)) from error
            if value is None:
                continue
            device = None
            if isinstance(leaf, TensorValue):
                meta = ran.tensors[leaf.index]
                device = meta.device
                alias = meta.alias
                if (
                    alias is not None
                    and 0 <= alias < len(parameters)
                    and parameters[alias].role != "input"
                ):
                    continue
            outputs.append(Output(path, value, device))
        return outputs

    def _profile(self) -> None:
        """Times every kernel by the same clock: one that cannot be captured decides for both."""
        with ExitStack() as stack:
            with self._not_charged():
                stack.enter_context(self._turn.timing())
            clock = "auto"
            profiled: list[Profiled] = []
            for contender in self._contenders:
                with self._blame(contender):
                    profiled.append(self._time(contender, clock))
            names = {answer.clock for answer in profiled}
            if len(names) > 1:
                reason = next(
                    answer.fallback_reason for answer in profiled if answer.fallback_reason
                )
                for position, contender in enumerate(self._contenders):
                    if profiled[position].clock == "cuda_graph":
                        with self._blame(contender):
                            answer = self._time(contender, "cuda_events")
                        answer.fallback_reason = f"the other kernel needs events: {reason}"
                        profiled[position] = answer
        for contender, answer in zip(self._contenders, profiled, strict=True):
            contender.report.runtime = summarize(answer.samples_ms)
            contender.report.samples_ms = [round(sample, 6) for sample in answer.samples_ms]
            contender.report.clock = ClockReport(
                name=answer.clock,
                fallback_reason=answer.fallback_reason,
                warmup=self._request.num_warmup,
                samples=len(answer.samples_ms),
            )
        reference, candidate = self.report.reference, self.report.candidate
        if reference and reference.runtime and candidate.runtime and candidate.runtime.mean > 0:
            self.report.speedup = reference.runtime.mean / candidate.runtime.mean

    def _time(self, contender: _Contender, clock: str) -> Profiled:
        runner = contender.session.runner
        answer = runner.ask(
            Profile,
            Profiled,
            deadline=self._deadline,
            slots=[0],
            seed=derive(self._seed, "profile"),
            warmup=self._request.num_warmup,
            samples=self._request.num_trials,
            clock=clock,
        )
        if len(answer.samples_ms) != self._request.num_trials:
            raise runner.child.protocol_error(
                f"{len(answer.samples_ms)} samples were sent; {self._request.num_trials} were asked"
                " for"
            )
        return answer

    def _synchronize(self) -> None:
        if self._machine.device.type == "cuda":
            torch.cuda.synchronize(self._machine.device)


def _takes_init_inputs(kernel: KernelCode) -> bool:
    """Whether a candidate may need the reference's constructor arguments first."""
    return kernel.kernel_type is KernelType.TORCH and "get_init_inputs" in kernel.source_code


def _first_error(log: str) -> str:
    """The line of a compiler's log that says what is wrong."""
    lines = [line for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
