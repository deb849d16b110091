"""Processes are found while others begin and end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from kerneljudge.runtime import orphans

pytestmark = pytest.mark.integration

FAMILY = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def test_the_children_of_children_are_found() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert orphans.descendants(parent.pid) == {child}
        assert {parent.pid, child} <= orphans.descendants(os.getpid())
        assert parent.stdin is not None
        parent.stdin.close()


def test_a_process_that_ends_while_it_is_looked_at_has_started_nothing() -> None:
    for _ in range(400):
        process = subprocess.Popen(["true"])
        # Its entry goes as another thread reaps it.
        reaping = threading.Thread(target=process.wait)
        reaping.start()
        while reaping.is_alive():
            assert orphans.descendants(process.pid) == set()
        reaping.join()
