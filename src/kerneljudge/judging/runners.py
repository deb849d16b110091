"""The runners of a device: some stand by, prepared for what recent jobs asked for, and those that
jobs have used are buried."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import get_args

from kerneljudge.judging.lease import Quiet
from kerneljudge.judging.processes import RunnerFault, RunnerProcess, ZygoteLost, ZygoteProcess
from kerneljudge.judging.tensors import Transport
from kerneljudge.runtime.memory import CudaError
from kerneljudge.runtime.messages import Preparation
from kerneljudge.schema import KernelCode, KernelType

__all__ = ["Runners", "preparation_for"]

_KEEPERS = 6
"""Threads that bury and start runners: a comparison uses up two, which others replace."""
_MAX_FAILURES = 3
_RECENT = 16
_PREPARATIONS: tuple[Preparation, ...] = get_args(Preparation)
"""In order: each serves for all that those before it do."""

_SEVERAL_STREAMS = re.compile(
    r"\b(External)?Stream\s*\(|StreamCreate|StreamFromPool|\b(RNN|LSTM|GRU)|CUDAGraph|getattr"
)
"""What a source has in it that uses several streams, itself or through cuDNN. One that hides it is
timed with all its work in one hardware queue, and harms nobody else."""


def preparation_for(kernel: KernelCode) -> Preparation:
    """What a runner should be prepared for, to be given this kernel."""
    if kernel.kernel_type in (KernelType.TRITON, KernelType.CUDA):
        return "launches"
    return "streams" if _SEVERAL_STREAMS.search(kernel.source_code) else "operators"


class Runners:
    """Safe to use from several threads."""

    def __init__(
        self,
        zygote: Callable[[], ZygoteProcess],
        quiet: Quiet,
        standby: int,
        bind_thread: Callable[[], None],
    ) -> None:
        """Keeps `standby` runners, forked from what `zygote` gives.

        `bind_thread` readies a thread for calls of CUDA's driver.
        """
        self._zygote = zygote
        self._quiet = quiet
        self._wanted = standby
        self._bind_thread = bind_thread
        self._standby: dict[Preparation, deque[RunnerProcess]] = {
            preparation: deque() for preparation in _PREPARATIONS
        }
        self._starting: Counter[Preparation] = Counter()
        self._recent: deque[Preparation] = deque(_PREPARATIONS, maxlen=_RECENT)
        self._retired: deque[tuple[RunnerProcess, Transport | None]] = deque()
        self._burying = 0
        self._failures = 0
        self._closing = False
        self._work = threading.Condition()

    def start(self, first: RunnerProcess) -> None:
        """Begins to keep runners standing by, beside a `first` one."""
        self._standby[first.preparation].append(first)
        for number in range(_KEEPERS):
            threading.Thread(target=self._keep, name=f"standby-{number}", daemon=True).start()

    def take(self, preparation: Preparation) -> RunnerProcess:
        """A runner that has read nothing yet, prepared for this at least.

        Raises `ZygoteLost` or `RunnerFault`.
        """
        enough = _PREPARATIONS[_PREPARATIONS.index(preparation) :]
        with self._work:
            self._recent.append(preparation)
            self._work.notify_all()
        while True:
            with self._work:
                # One that is about to stand by comes sooner than a new one.
                self._work.wait_for(
                    lambda: (
                        any(self._standby[kind] for kind in enough)
                        or not any(self._starting[kind] for kind in enough)
                    )
                )
                found = next((self._standby[kind] for kind in enough if self._standby[kind]), None)
                runner = found.popleft() if found is not None else None
                if runner is None:
                    self._give_way()
                self._work.notify_all()
            if runner is None:
                return self._new(preparation)
            if runner.child.alive:
                return runner
            runner.close()

    def retire(self, runner: RunnerProcess, transport: Transport) -> None:
        """Ends a runner, then gives back what it shared, when nothing is timed; and makes a new
        one stand by."""
        with self._work:
            self._retired.append((runner, transport))
            self._burying += 1
            self._work.notify_all()

    def wait_for_burials(self) -> None:
        """Returns when the memory of every retired runner is given back."""
        with self._work:
            self._work.wait_for(lambda: not self._burying)

    def discard(self) -> None:
        """Closes those that stand by, whose zygote has ended."""
        with self._work:
            stale = [runner for kind in self._standby.values() for runner in kind]
            for kind in self._standby.values():
                kind.clear()
            self._failures = 0
            self._work.notify_all()
        for runner in stale:
            runner.close()

    def close(self) -> None:
        """Keeps none standing by any more."""
        with self._work:
            self._closing = True
            self._work.notify_all()

    def _give_way(self) -> None:
        """Where all places are taken by runners that are of no use for what is asked for, ends one
        of them: else none that is would ever stand by."""
        standing = sum(len(runners) for runners in self._standby.values())
        if standing and standing + self._starting.total() >= self._wanted:
            useless = next(self._standby[kind] for kind in _PREPARATIONS if self._standby[kind])
            self._retired.append((useless.popleft(), None))
            self._burying += 1

    def _new(self, preparation: Preparation) -> RunnerProcess:
        runner = RunnerProcess.start(self._zygote(), preparation, self._quiet.disturbing)
        with self._work:
            # What kept others from standing by is over.
            self._failures = 0
            self._work.notify_all()
        return runner

    def _keep(self) -> None:
        """Buries retired runners and keeps new ones standing by."""
        self._bind_thread()
        while True:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._retired or self._lacking())
                if self._closing:
                    return
                retired = self._retired.popleft() if self._retired else None
                lacking = self._lacking() if retired is None else None
                if lacking is not None:
                    self._starting[lacking] += 1
            if retired is not None:
                with self._quiet.disturbing():
                    self._bury(*retired)
            elif lacking is not None:
                self._add(lacking)

    def _lacking(self) -> Preparation | None:
        """What recent jobs asked for and too few stand by for; None where enough do."""
        if self._failures >= _MAX_FAILURES or self._zygote().lost:
            return None
        there = {kind: len(self._standby[kind]) + self._starting[kind] for kind in _PREPARATIONS}
        if sum(there.values()) >= self._wanted:
            return None
        asked = Counter(self._recent)
        return max(
            _PREPARATIONS,
            key=lambda kind: self._wanted * asked[kind] / len(self._recent) - there[kind],
        )

    def _add(self, preparation: Preparation) -> None:
        runner = None
        try:
            runner = RunnerProcess.start(self._zygote(), preparation, self._quiet.disturbing)
        except (RunnerFault, ZygoteLost, OSError) as fault:
            # A job that then finds none standing by starts its own, and tells what is wrong.
            print(f"no runner could be made to stand by: {fault}", file=sys.stderr)
        finally:
            with self._work:
                self._starting[preparation] -= 1
                if runner is None:
                    self._failures += 1
                else:
                    self._failures = 0
                    self._standby[preparation].append(runner)
                self._work.notify_all()

    def _bury(self, runner: RunnerProcess, transport: Transport | None) -> None:
        try:
            runner.close()
            if transport is not None:
                # Only now: memory that another process has opened may not be freed.
                transport.close()
        except (CudaError, OSError) as error:
            print(f"a runner's memory could not be given back: {error}", file=sys.stderr)
        finally:
            with self._work:
                self._burying -= 1
                self._work.notify_all()
