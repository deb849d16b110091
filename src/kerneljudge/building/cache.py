"""The build cache: artefacts under the hash of all that they depend on.

Only trusted processes write here. Builders hand over files that hostile input has shaped; they are
taken as bytes, and never followed where they point.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from kerneljudge.building.eviction import mark_used
from kerneljudge.building.requests import BuildRequest, BuildResult
from kerneljudge.building.toolchain import Toolchain

__all__ = ["BuildCache", "cache_key"]

_KEY = re.compile(r"[0-9a-f]{64}")
_MANIFEST = "result.json"
_MAX_ARTEFACT_BYTES = 512 * 2**20
_ONCE_SECONDS = 3600
_LOCK_POLL_SECONDS = 0.02


def cache_key(request: BuildRequest, toolchain: Toolchain) -> str:
    """The SHA-256 of a request, of the compilers, torch and headers, and of this package's own
    generator: whatever could change the artefacts."""
    digest = hashlib.sha256()
    for part in (request.model_dump(mode="json"), toolchain.identity(), _generator()):
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\0")
    return digest.hexdigest()


@cache
def _generator() -> str:
    """The version of the code that makes artefacts: the hash of its files."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("native/*")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class BuildCache:
    """A folder of successful builds.

    Failures are not kept: they may be the machine's own (memory, a missing compiler), and an
    error that comes again costs what it cost before. Nor is a build that read files which its
    request does not hold, since those may change.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, key: str, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Holds one key, against other threads and processes, while it is looked up and built.

        `check` is called while another holds it, and may raise to give up waiting.
        """
        # Some keys share a lock, so that locks need no removal, which could not be told apart
        # from another's use of them.
        lock = self._root / "locks" / self._folder(key).name[:3]
        lock.parent.mkdir(exist_ok=True)
        with lock.open("w") as file:
            while not _locked(file):
                check()
                time.sleep(_LOCK_POLL_SECONDS)
            yield

    def lookup(self, key: str) -> BuildResult | None:
        """The result under a key, with its files where they lie in the cache.

        None where there is none, and where it is damaged: it is then built again.
        """
        folder = self._folder(key)
        try:
            mark_used(folder)
            kept = json.loads((folder / _MANIFEST).read_text())
            sizes: dict[str, int] = kept["sizes"]
            result = BuildResult.model_validate(kept["result"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None
        result.artefacts = {role: folder / path for role, path in result.artefacts.items()}
        for role, path in result.artefacts.items():
            try:
                if path.parent != folder or path.lstat().st_size != sizes[role]:
                    return None
            except (OSError, KeyError):
                return None
        return result.model_copy(update={"cached": True, "seconds": 0.0})

    def publish(self, key: str, result: BuildResult) -> BuildResult:
        """Takes a successful result's files over, whole or not at all, and returns it with them.

        One that is not to be found again keeps its files for an hour. A failure comes back as it
        is. Raises ValueError for an artefact that is no plain file, or too large.
        """
        if not result.ok:
            return result
        if not result.manifest.get("depends_on_other_files"):
            return self._place(result, self._folder(key))
        once = self._root / "once"
        for old in once.glob("*"):
            if old.stat().st_mtime < time.time() - _ONCE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return self._place(result, once / secrets.token_hex(16))

    def entries(self) -> Iterator[Path]:
        """The folder of every kept build, for `evict`."""
        for shard in self._root.glob("[0-9a-f][0-9a-f]"):
            yield from shard.iterdir()
        yield from self._root.glob("once/*")

    def _place(self, result: BuildResult, folder: Path) -> BuildResult:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._root, prefix="new-") as name:
            new = Path(name)
            paths: dict[str, Path] = {}
            sizes: dict[str, int] = {}
            for index, (role, path) in enumerate(sorted(result.artefacts.items())):
                # Names come from the builder: only their ending is of use to a loader.
                suffix = path.suffix if re.fullmatch(r"\.\w{1,8}", path.suffix) else ""
                paths[role] = Path(f"{index}{suffix}")
                sizes[role] = _copy(path, new / paths[role])
            kept = result.model_copy(update={"artefacts": paths})
            manifest = {"sizes": sizes, "result": kept.model_dump(mode="json")}
            (new / _MANIFEST).write_text(json.dumps(manifest))
            new.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one: the caller holds the lock
            os.rename(new, folder)
            new.mkdir()  # for TemporaryDirectory to remove
        placed = {role: folder / path for role, path in paths.items()}
        return result.model_copy(update={"artefacts": placed})

    def _folder(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of the build cache")
        return self._root / key[:2] / key


def _locked(file: TextIO) -> bool:
    """Locks a file if nobody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _copy(source: Path, target: Path) -> int:
    """Copies a plain file and returns its size."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"artefact {source.name} is no plain file")
        if status.st_size > _MAX_ARTEFACT_BYTES:
            raise ValueError(f"artefact {source.name} has {status.st_size} bytes")
        with target.open("wb") as copy:
            shutil.copyfileobj(file, copy)
    target.chmod(0o444)
    return target.stat().st_size
