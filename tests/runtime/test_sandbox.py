"""What a process that judges can still reach."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

# Devices that every machine has take the place of GPUs; they are opened and closed as GPUs are.
HIDE = """
import json, sys
from pathlib import Path
from kerneljudge.runtime import sandbox

sandbox._gpu_nodes = lambda: {"GPU-a": Path("/dev/zero"), "GPU-b": Path("/dev/full")}
layer = sandbox.hide_gpus(json.loads(sys.argv[1]))
opened = []
for path in ("/dev/zero", "/dev/full", "/dev/null"):
    try:
        open(path, "rb").close()
        opened.append(path)
    except PermissionError:
        pass
print(json.dumps([layer.active, layer.reason, opened]))
"""


@pytest.mark.parametrize(
    ("visible", "opened"),
    [
        ("GPU-a", ["/dev/zero", "/dev/null"]),
        ("GPU-b", ["/dev/full", "/dev/null"]),
        (None, ["/dev/null"]),
    ],
)
def test_other_gpus_are_closed_to_a_judge_and_all_that_it_starts(
    visible: str | None, opened: list[str]
) -> None:
    allowed = subprocess.run(["unshare", "--user", "--mount", "true"], check=False)
    if allowed.returncode:
        pytest.skip("namespaces are not allowed here")
    assert hide(visible) == [True, None, opened]


@pytest.mark.parametrize(
    ("visible", "reason"),
    [
        ("MIG-1", "MIG-1 is a part of a GPU"),
        ("GPU-c", "the driver does not list GPU-c"),
    ],
)
def test_nothing_is_closed_where_it_is_not_known_what_is_its_own(visible: str, reason: str) -> None:
    assert hide(visible) == [False, reason, ["/dev/zero", "/dev/full", "/dev/null"]]


def hide(visible: str | None) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", HIDE, json.dumps(visible)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[object] = json.loads(done.stdout)
    return found
