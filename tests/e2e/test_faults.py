"""Processes of every kind are killed under load, and every job is accounted for.

`python -m benchmarks.faults` is the same at length.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.faults import KINDS, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_no_job_is_lost_doubled_mixed_up_or_misjudged_whatever_is_killed(tmp_path: Path) -> None:
    account = run(tmp_path, kills=len(KINDS), clients=2, devices="cpu", seed=7, pause=(0.5, 3))
    assert account.kills == dict.fromkeys(KINDS, 1)
    assert account.restarts >= 1
    assert account.submitted > 0
    assert sum(account.states.values()) == account.submitted
    assert account.sound, [
        *account.lost,
        *account.duplicated,
        *account.mixed_up,
        *account.untruthful,
    ]
    assert max(account.attempts) > 1, "nothing was interrupted"
