"""Builds for a judge: from the cache, or by a builder of its own process."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

from kerneljudge import building
from kerneljudge.building import BuildRequest, BuildResult
from kerneljudge.judging.cancellation import Cancellation
from kerneljudge.judging.permits import Permits
from kerneljudge.judging.processes import Killed, RunnerFault, ZygoteProcess
from kerneljudge.judging.staging import staged
from kerneljudge.runtime.messages import Build, Built, FromBuilder
from kerneljudge.schema import FaultKind

__all__ = ["Builds", "place"]

_OWN_ERROR = 1
"""Exit code of a builder that raised: a mistake of its own, not of what it compiled."""


class Builds:
    """Answers build requests. Safe to use from several threads."""

    def __init__(
        self,
        zygote: ZygoteProcess,
        cache: building.BuildCache,
        toolchain: building.Toolchain,
        permits: Permits,
    ) -> None:
        self._zygote = zygote
        self._cache = cache
        self._toolchain = toolchain
        self._permits = permits

    def build(
        self, request: BuildRequest, deadline: float, cancellation: Cancellation
    ) -> tuple[BuildResult, float]:
        """The result of a build, and the seconds that it waited for its turn: they do not count
        towards `deadline`, a `time.monotonic()` value.

        A builder that dies, hangs or answers nonsense is a failed build: its input is hostile.
        Raises `Cancelled`, `ZygoteLost`, or `Killed` where the builder was killed from outside.
        """
        key = building.cache_key(request, self._toolchain)
        waiting = time.monotonic()
        with self._cache.lock(key, cancellation.check):
            cached = self._cache.lookup(key)
            if cached is not None:
                return cached, time.monotonic() - waiting
            with self._permits.held(cancellation):
                waited = time.monotonic() - waiting
                return self._run(key, request, deadline + waited, cancellation), waited

    def _run(
        self, key: str, request: BuildRequest, deadline: float, cancellation: Cancellation
    ) -> BuildResult:
        started = time.monotonic()
        child = self._zygote.fork("builder", FromBuilder)
        try:
            number = child.next_request()
            with cancellation.ending(child.stop):
                child.send(Build(request=number, build=request), deadline=deadline)
                answer = child.receive(deadline)
            if not isinstance(answer, Built) or answer.request != number:
                raise child.protocol_error("the builder sent no answer to its request")
            result = answer.result
            _check_artefacts(result, child.scratch)
            result.seconds = time.monotonic() - started
            return self._cache.publish(key, result)
        except ValueError as error:
            return _failed(request, str(error), None, "", time.monotonic() - started)
        except Killed:
            raise
        except RunnerFault as fault:
            cancellation.check()
            if fault.exit_code == _OWN_ERROR:
                raise RuntimeError(f"the builder failed: {child.printed}") from fault
            seconds = time.monotonic() - started
            return _failed(request, fault.message, fault.kind, child.printed, seconds)
        finally:
            child.close()


def place(result: BuildResult, folder: Path) -> BuildResult:
    """Copies a build's artefacts into a runner's folder: it reads its own, and no cache."""
    target = folder / f"build-{uuid.uuid4().hex}"
    with staged(target) as staging:
        staging.mkdir()
        for path in result.artefacts.values():
            shutil.copyfile(path, staging / path.name)
            (staging / path.name).chmod(0o444)
    placed = {role: target / path.name for role, path in result.artefacts.items()}
    return result.model_copy(update={"artefacts": placed})


def _check_artefacts(result: BuildResult, scratch: Path) -> None:
    """Raises ValueError unless every artefact is a plain file in the builder's own folder."""
    for role, path in result.artefacts.items():
        inside = path.parent.resolve().is_relative_to(scratch.resolve())
        if not inside or path.is_symlink() or not path.is_file():
            raise ValueError(f"the builder's artefact {role!r} is no file of its own")


def _failed(
    request: BuildRequest, message: str, kind: FaultKind | None, printed: str, seconds: float
) -> BuildResult:
    faults = {FaultKind.TIMEOUT: "timeout", FaultKind.OUT_OF_MEMORY: "out_of_memory"}
    way = "nvcc" if getattr(request, "compiler", None) == "nvcc" else "nvrtc"
    return BuildResult.model_validate(
        {
            "ok": False,
            "way": "fast" if request.kind == "extension" else way,
            "log": f"{message}\n{printed}".strip(),
            "fault": faults.get(kind, "compile_error") if kind else "compile_error",
            "seconds": seconds,
        }
    )
