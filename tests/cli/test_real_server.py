"""`kerneljudge` as a user runs it: real processes, judging on the CPU."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import alive, descendants

import kerneljudge

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "kerneljudge"]

MODEL = """
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return x + 1


def get_inputs():
    return [torch.randn(64)]
"""
WRONG = MODEL.replace("x + 1", "x + 2").replace("Model(", "ModelNew(")


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> dict[str, str]:
    """Settings of the servers that the commands start."""
    cache = pytestconfig.cache
    assert cache is not None
    wanted = {name: value for name, value in os.environ.items() if name != "KERNELJUDGE_URL"}
    return wanted | {
        "KERNELJUDGE_DEVICES": "cpu",
        "KERNELJUDGE_CACHE_DIR": str(cache.mkdir("kerneljudge-builds")),
        "KERNELJUDGE_STATE_DIR": str(tmp_path_factory.mktemp("state")),
        "KERNELJUDGE_STANDBY": "1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def run(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command to its end."""

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return command


def wait_until_gone(processes: set[int]) -> None:
    """Returns when none of them lives; the test's own timeout says when that is too long."""
    while any(alive(pid) for pid in processes):
        time.sleep(0.05)


@pytest.fixture
def serve(
    environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `kerneljudge serve --port 0`, with the state folder `state`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", "0", *arguments],
            env=environment | {"KERNELJUDGE_STATE_DIR": str(tmp_path / "state")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"KernelJudge listening on (http://127\.0\.0\.1:[1-9]\d*)\n", line)
    assert found, line
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_takes_jobs_when_it_says_so_and_leaves_nothing_behind(
    serve: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    server = serve()
    url = address(server)
    body = {"kernel": {"source_code": MODEL, "kernel_type": "torch"}, "num_trials": 3}
    answer = httpx.post(f"{url}/evaluate", json=body, timeout=200)
    assert answer.status_code == 200
    assert answer.json()["verdict"] == "accepted", answer.text
    below = descendants(server.pid)
    assert below, "the judge is a process of its own"
    server.send_signal(number)
    assert server.wait(60) == 0
    wait_until_gone(below)


def test_a_server_may_hold_more_connections_than_its_shell_allows(
    serve: Callable[..., subprocess.Popen[str]],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = serve()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    address(server)
    allowed, _ = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    assert allowed > 256


def test_a_server_ends_with_the_process_that_holds_its_input(
    serve: Callable[..., subprocess.Popen[str]],
) -> None:
    server = serve("--until-eof")
    address(server)
    below = descendants(server.pid)
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(60) == 0
    wait_until_gone(below)


def test_a_server_can_be_stopped_before_it_is_ready(
    serve: Callable[..., subprocess.Popen[str]],
) -> None:
    server = serve()
    while not (below := descendants(server.pid)):
        time.sleep(0.01)
    server.terminate()
    assert server.wait(60) == 0
    wait_until_gone(below)


def test_stopping_a_server_ends_a_running_job_with_an_answer(
    serve: Callable[..., subprocess.Popen[str]],
) -> None:
    server = serve("--shutdown-grace", "0")
    url = address(server)
    endless = MODEL.replace("return x + 1", "\n        while True: pass")
    body = {"kernel": {"source_code": endless, "kernel_type": "torch"}}
    client = subprocess.Popen(
        [sys.executable, "-c", "import sys, httpx; r = httpx.post(sys.argv[1], content=sys.stdin."
         "read(), timeout=200); print(r.status_code, r.json()['error'])", f"{url}/evaluate"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdin is not None
    client.stdin.write(json.dumps(body))
    client.stdin.close()
    states: dict[str, int] = {}
    while "validating" not in states:
        states = httpx.get(f"{url}/health", timeout=30).json()["job_stats"]["by_status"]
    below = descendants(server.pid)
    server.terminate()
    assert server.wait(60) == 0
    wait_until_gone(below)
    assert client.stdout is not None
    assert client.stdout.read() == (
        "503 the server is stopping before the job has ended; the next one goes on with it\n"
    )
    client.wait()


def test_a_port_that_is_taken_is_told_and_exits_3(
    serve: Callable[..., subprocess.Popen[str]],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    port = address(serve()).rpartition(":")[2]
    done = run("serve", "--port", port)
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert done.stdout == ""


def test_a_database_that_another_server_has_is_told_and_exits_3(
    serve: Callable[..., subprocess.Popen[str]],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    address(serve())
    done = run("serve", "--port", "0", "--state-dir", tmp_path / "state")
    assert done.returncode == 3
    assert "another server has the database" in done.stderr


def test_a_device_that_is_not_there_is_told_and_exits_3(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run("serve", "--port", "0", "--devices", "cuda:63")
    assert done.returncode == 3
    assert "cuda:63" in done.stderr


def test_evaluate_and_compare_with_a_private_server(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = run("evaluate", tmp_path / "model.py", "--trials", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "accepted"
    done = run("compare", tmp_path / "model.py", tmp_path / "wrong.py", "--trials", "3")
    assert done.returncode == 1, done.stderr
    assert "wrong_answer" in done.stdout
    assert "first mismatch: output" in done.stdout


def test_a_private_server_imports_nothing_from_the_current_folder(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('imported from the current folder')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kerneljudge", "evaluate", "model.py", "--trials", "3"],
        cwd=tmp_path,
        # Where this package is, also for a PYTHONPATH that is relative to another folder.
        env=environment | {"PYTHONPATH": str(Path(kerneljudge.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_cache_that_cannot_be_made_is_told_and_exits_3(
    environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    done = subprocess.run(
        [*COMMAND, "serve", "--port", "0", "--cache-dir", str(file / "cache")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 3
    assert str(file / "cache") in done.stderr


def test_a_folder_is_judged_by_one_private_server(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for number in (10, 9):
        (tmp_path / f"{number}_add.py").write_text(MODEL)
    (tmp_path / "8_broken.py").write_text("import no_such_module\n" + MODEL)
    done = run("evaluate", tmp_path, "--type", "torch", "--trials", "3", "--json")
    assert done.returncode == 1, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(Path(entry["file"]).name, entry["verdict"]) for entry in listed] == [
        ("8_broken.py", "compile_error"),
        ("9_add.py", "accepted"),
        ("10_add.py", "accepted"),
    ]
    assert "no_such_module" in listed[0]["kernel_exec_result"]["compilation_error"]


def test_a_private_server_dies_with_its_command(
    environment: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "endless.py"
    model.write_text(MODEL.replace("return x + 1", "\n        while True: pass"))
    command = subprocess.Popen(
        [*COMMAND, "evaluate", str(model)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The server, its judge, the zygote and a runner.
    while len(below := descendants(command.pid)) < 4:
        assert command.poll() is None
        time.sleep(0.05)
    command.kill()
    command.wait()
    wait_until_gone(below)


def test_ctrl_c_cancels_the_job_that_a_command_waits_for(
    serve: Callable[..., subprocess.Popen[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    url = address(serve())
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(
            MODEL.replace("return x + 1", "\n        while True: pass")
        )

    def jobs(status: str) -> list[Any]:
        answer = httpx.get(f"{url}/jobs", params={"status": status}, timeout=30)
        found: list[Any] = answer.json()["jobs"]
        return found

    for source, count in ((tmp_path / "first.py", 1), (tmp_path, 2)):
        before = len(jobs("cancelled"))
        command = subprocess.Popen(
            [*COMMAND, "evaluate", str(source), "--type", "torch", "--url", url],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Tests that run in the background are started with Ctrl-C ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        while not jobs("validating"):
            assert command.poll() is None
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
        assert command.returncode == 130, said
        assert said.count("Cancelled the job") == count
        while len(jobs("cancelled")) < before + count:
            pass


def test_a_private_server_that_does_not_start_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    done = subprocess.run(
        [*COMMAND, "evaluate", str(model), "--json"],
        env=environment | {"KERNELJUDGE_DEVICES": "cuda:63"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 3
    body = json.loads(done.stdout)
    assert body["status"] == "error"
    assert "cuda:63" in body["error"]


def test_the_demo_judges_every_type(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run("demo", "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    bodies: list[dict[str, Any]] = json.loads((tmp_path / "demo.json").read_text())
    verdicts = {
        body["kernel_exec_result"]["metadata"]["kernel_type"]: body["verdict"] for body in bodies
    }
    assert verdicts == {
        "torch": "accepted",
        "torch_cuda": "unsupported",
        "triton": "accepted",
        "cuda": "unsupported",
        "multi_kernel": "accepted",
    }


def test_doctor_says_what_can_be_judged(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["can_judge"] is True
    checks = {check["name"]: check for check in body["checks"]}
    for name in ("Python", "torch", "triton", "NVRTC", "nvcc", "g++", "shared memory"):
        assert checks[name]["detail"]
    assert any(name.startswith("sandbox: ") for name in checks)
    (cpu,) = [device for device in body["devices"] if device["device"] == "cpu"]
    assert cpu["abilities"]["torch"]["ok"] is True
    assert cpu["abilities"]["cuda"]["ok"] is False
    told = run("doctor")
    assert told.returncode == 0
    assert "This machine can judge." in told.stdout
