"""Wrappers in every shape that people write them, all of which compute `2 * x + 1`.

Each file under tests/building/wrappers is a CUDA source with comments at its head: `cpp`, the C++
source; `functions`, what load_inline binds; `expect`, `fast`, or `nvcc:` and why; `flags`, options
for nvcc; `dtype` of x; `needs`, what the machine must have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kerneljudge.building import ExtensionBuild

FOLDER = Path(__file__).parents[1] / "building" / "wrappers"
_HEAD = re.compile(r"^// (cpp|functions|expect|flags|dtype|needs): ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Wrapper:
    """One of them."""

    name: str
    cuda: str
    cpp: str
    functions: list[str]
    flags: list[str]
    dtype: str
    needs: str
    reason: str | None
    """Why it takes nvcc; None where the fast way builds it."""

    @property
    def function(self) -> str:
        """The bound function that takes x."""
        return self.functions[0] if self.functions else "forward"

    def request(self, **fields: object) -> ExtensionBuild:
        """Has it built."""
        given: dict[str, object] = {
            "name": self.name,
            "architecture": "sm_90",
            "cuda_sources": [self.cuda],
            "cpp_sources": [self.cpp] if self.cpp else [],
            "functions": {name: name for name in self.functions} or None,
            "extra_cuda_cflags": self.flags,
        }
        return ExtensionBuild.model_validate(given | fields)


def wrapper(name: str) -> Wrapper:
    """The one in `name`.cu."""
    text = (FOLDER / f"{name}.cu").read_text()
    head = dict(_HEAD.findall(text))
    way, _, reason = head["expect"].partition(":")
    return Wrapper(
        name=name,
        cuda=text,
        cpp=head.get("cpp", ""),
        functions=head["functions"].split(),
        flags=head.get("flags", "").split(),
        dtype=head.get("dtype", "float32"),
        needs=head.get("needs", ""),
        reason=reason.strip() if way == "nvcc" else None,
    )


NAMES = sorted(path.stem for path in FOLDER.glob("*.cu"))
"""All of them."""
