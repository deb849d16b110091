"""Whatever a runner does, the verdict says so, the next job is right, and nothing is left."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pairs import REFERENCE, candidate, kernel, reference
from processes import alive, command_lines, descendants, parent

from kerneljudge.client import KernelJudgeClient, RequestError

pytestmark = pytest.mark.e2e

GOOD = candidate("return b + a")
Compare = Callable[..., Any]


@pytest.fixture(autouse=True)
def the_next_job_is_right(compare: Compare) -> Iterator[None]:
    yield
    after = compare(kernel(REFERENCE), GOOD)
    assert after.verdict == "accepted", after.fault


@pytest.mark.parametrize(
    ("body", "verdict", "says"),
    [
        ("raise ValueError('no such thing')", "runtime_error", "ValueError: no such thing"),
        ("import sys; sys.exit(0)", "runtime_error", "SystemExit"),
        ("import os; os._exit(0)", "crashed", "exit code 0"),
        ("import os; os._exit(77)", "crashed", "exit code 77"),
        ("import ctypes; ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("import os; os.abort()", "crashed", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crashed", "SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", "crashed", "signal 40"),
        ("return 'x' * 1_000_000", "runtime_error", "a string of more than"),
        ("return {'k' * 1000: a}", "runtime_error", "256 characters"),
        ("return torch.empty(1 << 44, dtype=torch.uint8)", "out_of_memory", ""),
        ("return a.new_empty(1 << 44)", "out_of_memory", ""),
        ("return object()", "runtime_error", "only tensors"),
        ("return a.to_sparse()", "runtime_error", "dense"),
        ("import os; os.write(3, bytes(range(256))); return a + b", "protocol_error", ""),
        ("import os; os.write(3, b'\\0\\0\\0\\2{}'); return a + b", "protocol_error", ""),
        ("import os; os.write(3, b'\\0\\0\\0\\9{'); os._exit(5)", "crashed", "exit code 5"),
        ("import os; os.close(3); return a + b", "crashed", ""),
    ],
)
def test_a_candidate_that_fails_while_it_runs_is_told_by_kind(
    compare: Compare, body: str, verdict: str, says: str
) -> None:
    judged = compare(kernel(REFERENCE), candidate(body))
    assert judged.verdict == verdict, judged.fault
    assert judged.fault.side == "candidate"
    assert judged.fault.phase == "check"
    assert says in judged.fault.message
    assert judged.status == "success"
    assert judged.kernel_exec_result.compiled
    assert not judged.kernel_exec_result.correctness
    assert judged.kernel_exec_result.validation_error


@pytest.mark.parametrize(
    ("source", "verdict", "says"),
    [
        ("class ModelNew(:\n    pass", "compile_error", "SyntaxError"),
        ("import nonexistent_module_of_nobody", "compile_error", "ModuleNotFoundError"),
        ("x = undefined_name", "compile_error", "NameError"),
        ("import torch\n\ndef forward(a, b):\n    return a + b", "compile_error", "not found"),
        ("import os\nos._exit(9)", "crashed", "exit code 9"),
        ("import ctypes\nctypes.string_at(0)", "crashed", "SIGSEGV"),
    ],
)
def test_a_candidate_that_fails_before_it_runs_is_not_compiled(
    compare: Compare, source: str, verdict: str, says: str
) -> None:
    judged = compare(kernel(REFERENCE), kernel(source))
    assert judged.verdict == verdict, judged.fault
    assert judged.fault.phase == "load"
    assert says in judged.fault.message
    assert not judged.kernel_exec_result.compiled
    assert says in judged.kernel_exec_result.compilation_error


def test_a_contract_beyond_the_memory_of_the_device_is_not_accepted(client: Any) -> None:
    # Each tensor is within the bound for one; together they are too much for any device.
    tensor = {"shape": [1 << 31], "dtype": "float64"}
    names = [f"x{number}" for number in range(64)]
    with pytest.raises(RequestError) as refused:
        client.evaluate(
            kernel(
                "def run(*tensors):\n    return tensors[0]",
                "multi_kernel",
                io={
                    "args": [
                        {"name": name, "type": "tensor", "tensor_spec": tensor} for name in names
                    ]
                },
                metadata={"entry_point": "run"},
            )
        )
    assert refused.value.status_code == 400
    assert "memory" in str(refused.value)


def test_a_kernel_that_returns_thousands_of_numbers_is_told_to_return_tensors(
    compare: Compare,
) -> None:
    judged = compare(kernel(REFERENCE), candidate("return list(range(5000))"))
    assert judged.verdict == "runtime_error"
    assert "more than 4096 values" in judged.fault.message


def test_a_message_of_an_untrusted_process_is_bounded(compare: Compare) -> None:
    announced = "import os, struct; os.write(3, struct.pack('!I', 32 << 20)); return a + b"
    judged = compare(kernel(REFERENCE), candidate(announced))
    assert judged.verdict == "protocol_error"
    assert "at most" in judged.fault.message


def test_a_reference_that_fails_is_told_from_a_candidate_that_fails(compare: Compare) -> None:
    judged = compare(reference("raise KeyError('mine')", "[torch.ones(2)]"), GOOD)
    assert judged.verdict == "reference_failed"
    assert judged.fault.side == "reference"
    assert "KeyError" in judged.fault.message
    assert judged.candidate.fault is None


def test_an_endless_loop_on_the_host_is_a_timeout(compare: Compare) -> None:
    started = time.monotonic()
    judged = compare(kernel(REFERENCE), candidate("while True: pass"), timeout=5)
    assert judged.verdict == "timeout"
    assert judged.status == "error"
    assert judged.fault.side == "candidate"
    assert judged.kernel_exec_result.compiled
    assert time.monotonic() - started < 60


def test_what_was_found_before_the_failure_stays(compare: Compare) -> None:
    judged = compare(
        kernel(REFERENCE),
        candidate(
            """
            global calls
            calls += 1
            if calls == 2:
                raise RuntimeError("second call")
            return a + b
            """,
            top="calls = 0",
        ),
    )
    assert judged.verdict == "runtime_error"
    assert [check.passed for check in judged.checks] == [True]


def test_a_failure_while_timing_is_told_with_its_phase_and_keeps_the_checks(
    compare: Compare,
) -> None:
    judged = compare(
        kernel(REFERENCE),
        candidate(
            """
            global calls
            calls += 1
            if calls > 2:
                os._exit(4)
            return a + b
            """,
            top="import os\ncalls = 0",
        ),
    )
    assert judged.verdict == "crashed"
    assert judged.fault.phase == "profile"
    assert len(judged.checks) == 2
    assert all(check.passed for check in judged.checks)


def test_gigabytes_on_standard_output_are_cut_off(compare: Compare) -> None:
    judged = compare(kernel(REFERENCE), candidate("while True: print('x' * 65536)"))
    assert judged.verdict == "output_limit"
    assert 0 < len(judged.candidate.stdout) < 100_000


def test_what_a_kernel_prints_is_in_its_report(compare: Compare) -> None:
    judged = compare(kernel(REFERENCE), candidate("print('here I am'); return a + b"))
    assert judged.verdict == "accepted"
    assert "here I am" in judged.candidate.stdout
    assert judged.reference.stdout == ""


def test_a_child_that_leaves_its_session_is_killed_with_its_runner(compare: Compare) -> None:
    judged = compare(
        kernel(REFERENCE),
        candidate(
            """
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    ctypes.CDLL(None).prctl(15, b"escapee\\xff\\xfe", 0, 0, 0)
                    time.sleep(600)
                os._exit(0)
            time.sleep(0.3)
            return a + b
            """,
            top="import ctypes, os, time",
        ),
        num_trials=1,
        num_warmup=0,
        num_checks=1,
    )
    assert judged.verdict == "accepted", judged.fault
    deadline = time.monotonic() + 20
    while _named("escapee") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _named("escapee")


def _named(name: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_bytes().startswith(name.encode()):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_a_runner_cannot_reach_out(compare: Compare, tmp_path: Path) -> None:
    """What the sandbox denies, tried from inside: each attempt must be refused by the system."""
    secret = tmp_path / "secret"
    secret.write_text("key")
    judged = compare(
        kernel(REFERENCE),
        candidate(
            f"""
            held = []
            for attempt in (
                lambda: open({str(secret)!r}).read(),
                lambda: open({str(tmp_path / "written")!r}, "w"),
                lambda: open("/etc/shadow").read(),
                lambda: socket.create_connection(("127.0.0.1", 1), timeout=1).close() or 1 / 0,
                lambda: os.kill(os.getppid(), 0),
                lambda: os.setuid(0) if os.getuid() else os.chown("/proc", 1, 1),
            ):
                try:
                    attempt()
                except OSError:
                    held.append(True)
                else:
                    held.append(False)
            if "KERNELJUDGE_SECRET" in os.environ:
                held.append(False)
            if not all(held):
                raise RuntimeError(f"not held: {{held}}")
            return a + b
            """,
            top="import os, socket",
        ),
        num_trials=1,
    )
    assert judged.verdict == "accepted", judged.fault
    assert not (tmp_path / "written").exists()


LIES = """
import kerneljudge.runtime.runner as runner
import torch
import torch.nn as nn

honest_meta, honest_export = runner.TensorMeta, runner.export


class ModelNew(nn.Module):
    def forward(self, a, b):
        {lie}
        return a + b
"""


@pytest.mark.parametrize(
    ("lie", "verdict", "says"),
    [
        (
            "runner.TensorMeta = lambda **fields: honest_meta(**fields | {'shape': [1 << 50]})",
            "out_of_memory",
            "there is room for",
        ),
        (
            "runner.TensorMeta = lambda **fields: honest_meta(**fields | {'dtype': 'float31'})",
            "runtime_error",
            "no dtype that can be compared",
        ),
        (
            "runner.TensorMeta = lambda **fields: honest_meta("
            "**fields | {'shape': [0, 1 << 40, 1 << 40]})",
            "protocol_error",
            "no tensor can have",
        ),
        (
            "runner.Ran = lambda **fields: runner.Attached(request=fields['request'])",
            "protocol_error",
            "not asked for",
        ),
        (
            "runner.Ran = lambda **fields: runner.Loaded(request=1, kernel_name='x')",
            "protocol_error",
            "answers no request",
        ),
    ],
)
def test_a_runner_that_lies_about_its_results_is_not_believed(
    compare: Compare, lie: str, verdict: str, says: str
) -> None:
    judged = compare(kernel(REFERENCE), kernel(LIES.format(lie=lie)))
    assert judged.verdict == verdict, judged.fault
    assert says in judged.fault.message


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["gpu"], indirect=True)
@pytest.mark.parametrize(
    ("update", "says"),
    [
        ("{'offset': 1 << 40}", "does not fit"),
        ("{'strides': [1 << 40, 1]}", "does not fit"),
        ("{'strides': [1]}", "strides"),
        ("{'handle': 'QUFB'}", "64 bytes"),
    ],
)
def test_a_handle_is_read_only_within_the_allocation_that_the_driver_knows(
    compare: Compare, update: str, says: str
) -> None:
    lie = f"runner.export = lambda tensor: honest_export(tensor).model_copy(update={update})"
    judged = compare(kernel(REFERENCE), kernel(LIES.format(lie=lie)))
    assert judged.verdict == "protocol_error", judged.fault
    assert says in judged.fault.message


def test_a_zygote_that_dies_is_replaced(judge_server: Any, compare: Compare) -> None:
    lines = command_lines(descendants(judge_server.process.pid))
    zygotes = [pid for pid, line in lines.items() if "kerneljudge.runtime.zygote" in line]
    # Its children bear its name: it is the one whose parent is the judge.
    for pid in zygotes:
        if parent(pid) not in zygotes:
            os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        judged = compare(kernel(REFERENCE), GOOD)
        assert judged.verdict == "accepted", judged.fault


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["gpu"], indirect=True)
@pytest.mark.parametrize(
    ("store", "verdict", "says"),
    [
        ("tl.store(y + offsets + (1 << 42), x, mask=mask)", "runtime_error", "illegal memory"),
        (
            "i = n * 0\n    while i < n:\n        i = i * 1\n"
            "        tl.store(y + offsets, x + i, mask=mask)",
            "timeout",
            "",
        ),
        ("tl.device_assert(offsets < 0)\n    tl.store(y + offsets, x, mask=mask)", "", ""),
    ],
)
def test_what_goes_wrong_on_the_device_is_told(
    compare: Compare, store: str, verdict: str, says: str
) -> None:
    source = f"""
import triton
import triton.language as tl


@triton.jit
def copy(x_ptr, y, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask)
    {store}
"""
    tensor = {"type": "tensor", "tensor_spec": {"shape": [256]}}
    io = {
        "args": [
            {"name": "x", **tensor},
            {"name": "y", "role": "output", **tensor},
            {"name": "n", "type": "int", "value": 256},
            {"name": "BLOCK", "type": "int", "value": 256, "is_meta": True},
        ],
        "launch": {"grid": {"x": 1}},
    }
    judged = compare(
        reference("return args[0].clone()", "[torch.randn(256)]"),
        kernel(source, "triton", io=io),
        timeout=10,
    )
    if not verdict:
        # Without TRITON_DEBUG an assertion of the device is no code at all.
        assert judged.verdict in ("accepted", "runtime_error")
        return
    assert judged.verdict == verdict, judged.fault
    assert says in judged.fault.message


def test_no_process_and_no_folder_is_left_behind(
    start_server: Callable[..., Any], device: str
) -> None:
    # Not pytest's own folder, which a sandboxed user could not enter.
    with tempfile.TemporaryDirectory(prefix="kerneljudge-test-") as folder:
        os.chmod(folder, 0o711)
        _judge_and_stop(start_server, device, folder)
        assert os.listdir(folder) == []


def _judge_and_stop(start_server: Callable[..., Any], device: str, folder: str) -> None:
    devices = "cpu" if device == "cpu" else "cuda:0"
    server = start_server(devices, KERNELJUDGE_STANDBY="1", TMPDIR=folder)
    with KernelJudgeClient(server.url, timeout=100) as client:
        for body in ("return a + b", "import os; os._exit(1)", "while True: pass"):
            client.compare(kernel(REFERENCE), candidate(body), num_trials=1, timeout=5)
    pids = descendants(server.process.pid)
    assert any("zygote" in line for line in command_lines(pids).values())
    server.process.terminate()
    server.process.wait(60)
    deadline = time.monotonic() + 30
    while (left := {pid for pid in pids if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not command_lines(left)
