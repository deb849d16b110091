"""Keys from end to end: a server, the command that makes them beside it, and jobs with them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from kerneljudge.cli import app

pytestmark = pytest.mark.e2e

SECRET = "0123456789abcdef0123456789abcdef"
EVALUATE = {
    "kernel": {
        "source_code": "def double(x):\n    return 2 * x",
        "kernel_type": "torch",
        "metadata": {"function_name": "double"},
        "io": {
            "args": [
                {
                    "name": "x",
                    "type": "tensor",
                    "role": "input",
                    "tensor_spec": {"shape": [4], "dtype": "float32", "init": {"kind": "randn"}},
                }
            ]
        },
    },
    "num_trials": 1,
}


def test_a_server_takes_keys_that_are_made_beside_it(
    start_server: Callable[..., object], tmp_path: Path
) -> None:
    secret = tmp_path / "admin-key"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    config = tmp_path / "kerneljudge.toml"
    config.write_text(
        f"state_dir = {json.dumps(str(tmp_path / 'state'))}\n"
        f"admin_key_file = {json.dumps(str(secret))}\nstandby = 0\n"
    )
    # What the fixture sets for every server is left to the file.
    server = start_server("cpu", KERNELJUDGE_CONFIG=str(config), KERNELJUDGE_STATE_DIR="")
    made = CliRunner().invoke(app, ["keys", "create", "trainer", "--config", str(config), "--json"])
    assert made.exit_code == 0, made.stderr
    key = json.loads(made.stdout)
    with httpx.Client(base_url=server.url, trust_env=False, timeout=120) as client:  # type: ignore[attr-defined]
        assert client.post("/evaluate", json=EVALUATE).status_code == 401
        mine = {"X-API-Key": key["secret"]}
        deadline = time.monotonic() + 10
        while (answer := client.post("/evaluate", json=EVALUATE, headers=mine)).status_code == 401:
            assert time.monotonic() < deadline, "the new key is not known yet"
        assert answer.json()["verdict"] == "accepted"
        (job,) = client.get("/jobs", headers={"Authorization": f"Bearer {SECRET}"}).json()["jobs"]
        assert job["job_id"] == answer.json()["job_id"]
        assert job["client"] == key["key_id"]
    assert key["secret"] not in server.log  # type: ignore[attr-defined]
    assert SECRET not in server.log  # type: ignore[attr-defined]
