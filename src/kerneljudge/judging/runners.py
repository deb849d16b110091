"""The runners of a device: some stand by, prepared for what recent jobs asked for, those that jobs
have used are buried, and a few that ran a reference rest until it is asked for again."""

from __future__ import annotations

import re
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, get_args

from kerneljudge.judging.lease import Quiet
from kerneljudge.judging.processes import RunnerFault, RunnerProcess, ZygoteLost, ZygoteProcess
from kerneljudge.judging.sessions import Session
from kerneljudge.runtime.memory import CudaError
from kerneljudge.runtime.messages import Preparation
from kerneljudge.schema import KernelCode, KernelType

__all__ = ["Runners", "preparation_for"]

_KEEPERS = 3
"""Threads that bury and start runners. NVIDIA's driver makes one context at a time, whatever its
GPU, and lets every other call wait meanwhile: more of them would only slow the jobs down."""
_MAX_FAILURES = 3
_RECENT = 16
_MOST_STALE = 1024
_REST_SECONDS = 60.0
"""After which a runner that nobody asked for again ends."""
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


class _Resting(NamedTuple):
    key: str
    session: Session
    since: float


class Runners:
    """Safe to use from several threads."""

    def __init__(
        self,
        zygote: Callable[[], ZygoteProcess],
        quiet: Quiet,
        standby: int,
        references: int,
        bind_thread: Callable[[], None],
    ) -> None:
        """Keeps `standby` runners, forked from what `zygote` gives, and has as many as `references`
        rest after they ran one.

        `bind_thread` readies a thread for calls of CUDA's driver.
        """
        self._zygote = zygote
        self._quiet = quiet
        self._wanted = standby
        self._references = references
        self._bind_thread = bind_thread
        self._standby: dict[Preparation, deque[RunnerProcess]] = {
            preparation: deque() for preparation in _PREPARATIONS
        }
        self._starting: Counter[Preparation] = Counter()
        self._recent: deque[Preparation] = deque(_PREPARATIONS, maxlen=_RECENT)
        self._resting: list[_Resting] = []
        """The longest unused first."""
        self._stale: dict[str, None] = {}
        """References that fail in a runner that has run them, the latest last."""
        self._chores: deque[Callable[[], None]] = deque()
        """What is to be done about used runners, when nothing is timed."""
        self._undone = 0
        """Chores that wait or are under way."""
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

    def take_resting(self, key: str) -> Session | None:
        """A runner that has run the reference of this key before, if one rests. It is frozen."""
        while True:
            with self._work:
                if key in self._stale:
                    self._wake([rest for rest in self._resting if rest.key == key])
                found = next((rest for rest in reversed(self._resting) if rest.key == key), None)
                if found is None:
                    return None
                self._resting.remove(found)
            if found.session.runner.child.alive:
                found.session.jobs += 1
                return found.session
            self.retire(found.session)

    def retire(self, session: Session) -> None:
        """Ends a runner and gives back what it shared, when nothing is timed; and makes a new one
        stand by. Until then it is frozen."""
        session.runner.child.freeze()
        with self._work:
            self._put(partial(self._bury, session))

    def rest(self, key: str, session: Session) -> None:
        """Has a runner that ran a reference rest, until it is asked for again or makes room for
        others. It is frozen at once."""
        session.runner.child.freeze()
        with self._work:
            if self._references and key not in self._stale and session.may_rest:
                # The next job may wait for it.
                self._put(partial(self._lay_to_rest, key, session), first=True)
                return
        self.retire(session)

    def refuse(self, key: str) -> None:
        """Lets no runner rest any more that ran this reference, which failed in one that had."""
        with self._work:
            self._stale[key] = None
            while len(self._stale) > _MOST_STALE:
                del self._stale[next(iter(self._stale))]

    def make_room(self) -> None:
        """Returns when the memory of all that rests or has retired is given back."""
        with self._work:
            while self._resting or self._undone:
                self._wake(self._resting)
                self._work.wait_for(lambda: not self._undone)

    def discard(self) -> None:
        """Closes those that stand by or rest, whose zygote has ended."""
        with self._work:
            self._wake(self._resting)
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
            self._put(partial(self._bury, useless.popleft()))

    def _put(self, chore: Callable[[], None], *, first: bool = False) -> None:
        """Leaves something to the keepers."""
        (self._chores.appendleft if first else self._chores.append)(chore)
        self._undone += 1
        self._work.notify_all()

    def _wake(self, resting: list[_Resting]) -> None:
        """Ends some that rest."""
        for rest in list(resting):
            self._resting.remove(rest)
            self._put(partial(self._bury, rest.session))

    def _new(self, preparation: Preparation) -> RunnerProcess:
        runner = RunnerProcess.start(self._zygote(), preparation, self._quiet.disturbing)
        with self._work:
            # What kept others from standing by is over.
            self._failures = 0
            self._work.notify_all()
        return runner

    def _keep(self) -> None:
        """Sees to used runners and keeps new ones standing by."""
        self._bind_thread()
        while True:
            with self._work:
                self._work.wait_for(
                    lambda: self._closing or self._chores or self._lacking(), _REST_SECONDS / 4
                )
                if self._closing:
                    return
                long_ago = time.monotonic() - _REST_SECONDS
                self._wake([rest for rest in self._resting if rest.since < long_ago])
                chore = self._chores.popleft() if self._chores else None
                lacking = self._lacking() if chore is None else None
                if lacking is not None:
                    self._starting[lacking] += 1
            if chore is not None:
                self._do(chore)
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

    def _do(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except Exception:
            # Submitted code is behind it; whoever does the chores goes on.
            traceback.print_exc()
        finally:
            with self._work:
                self._undone -= 1
                self._work.notify_all()

    def _bury(self, used: Session | RunnerProcess) -> None:
        try:
            with self._quiet.disturbing():
                used.end()
        except (CudaError, OSError, ZygoteLost) as error:
            print(f"what a runner held could not be given back: {error}", file=sys.stderr)
        # Its folder may be large, and disturbs nobody.
        used.close()

    def _lay_to_rest(self, key: str, session: Session) -> None:
        try:
            with self._quiet.disturbing():
                session.rest()
            session.runner.child.clear()
        except (RunnerFault, ZygoteLost, CudaError, OSError) as error:
            # What does not do what it is told must end; no job is concerned any more.
            print(f"a reference's runner could not be kept: {error}", file=sys.stderr)
            self._bury(session)
            return
        except Exception:
            self._bury(session)
            raise
        with self._work:
            self._resting.append(_Resting(key, session, time.monotonic()))
            self._wake(self._resting[: -self._references])
