"""The commands against a server that answers as it is told: output, files, exit codes."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from listening import listening
from rich.console import Console
from scripted import ScriptedEvaluator, accepted, failed, partial, side
from typer.testing import CliRunner, Result

import kerneljudge
from kerneljudge.cli import app
from kerneljudge.schema import (
    CheckReport,
    CompareRequest,
    ElementReport,
    EvaluateRequest,
    Fault,
    FaultKind,
    JobReport,
    JobRequest,
    KernelType,
    OutputReport,
    Phase,
    Verdict,
)

pytestmark = pytest.mark.integration

MODEL = "class Model:\n    def forward(self, x):\n        return x\n"


@pytest.fixture
def evaluator() -> ScriptedEvaluator:
    """Its script may be replaced."""
    return ScriptedEvaluator()


@pytest.fixture
def run(
    evaluator: ScriptedEvaluator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Runs a command against the evaluator's server."""
    monkeypatch.setenv("COLUMNS", "200")
    with listening(evaluator) as url:
        monkeypatch.setenv("KERNELJUDGE_URL", url)

        def invoke(*arguments: str | Path) -> Result:
            return CliRunner().invoke(app, [str(argument) for argument in arguments])

        yield invoke


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_an_accepted_kernel_exits_0_and_shows_its_time(
    run: Callable[..., Result], model: Path
) -> None:
    result = run("evaluate", model)
    assert result.exit_code == 0, result.output
    assert "accepted" in result.stdout
    assert re.search(r"candidate +add .* 1\.235 ", result.stdout)
    assert "candidate's clock: cuda_graph, 100 timed runs after 10" in result.stdout
    assert "checks: 2 of 2 passed" in result.stdout


def test_a_comparison_shows_both_sides_and_the_speedup(
    run: Callable[..., Result], model: Path
) -> None:
    result = run("compare", model, model)
    assert result.exit_code == 0, result.output
    assert "2× the reference's speed" in result.stdout
    assert re.search(r"reference +add .* 2\.469 ", result.stdout)
    assert re.search(r"candidate +add .* 1\.235 ", result.stdout)
    assert "atol=0.01, rtol=0.01" in result.stdout


def test_json_is_the_response_and_nothing_else(run: Callable[..., Result], model: Path) -> None:
    result = run("compare", model, model, "--json")
    body = json.loads(result.stdout)
    assert result.exit_code == 0
    assert body["verdict"] == "accepted"
    assert body["kernel_exec_result"]["runtime"] == 1.235
    assert body["ref_runtime"]["mean"] == 2.469


def test_output_is_the_response_in_a_file(
    run: Callable[..., Result], model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "result.json"
    result = run("evaluate", model, "--output", target)
    assert result.exit_code == 0
    assert json.loads(target.read_text())["verdict"] == "accepted"
    assert "accepted" in result.stdout


def test_an_output_that_cannot_be_written_is_told_before_anything_is_judged(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    result = run("evaluate", model, "--output", "/proc/none")
    assert result.exit_code == 2
    assert "cannot write to /proc/none" in result.stderr
    assert evaluator.requests == []


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (FaultKind.REFUSED, Phase.READ),
        (FaultKind.COMPILE_ERROR, Phase.BUILD),
        (FaultKind.CRASHED, Phase.CHECK),
        (FaultKind.TIMEOUT, Phase.PROFILE),
        (FaultKind.UNSUPPORTED, Phase.LOAD),
    ],
)
def test_a_failing_kernel_exits_1_and_is_explained(
    run: Callable[..., Result],
    model: Path,
    evaluator: ScriptedEvaluator,
    kind: FaultKind,
    phase: Phase,
) -> None:
    evaluator.script = lambda request: failed(request, kind, phase)
    result = run("evaluate", model)
    assert result.exit_code == 1, result.output
    assert kind.value in result.stdout
    assert f"candidate, {phase.value}, {kind.value}: the candidate did not survive" in result.stdout
    assert "hint: write it otherwise" in result.stdout
    assert "Traceback: line 1" in result.stdout


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("2 of 4 elements differ", "first mismatch: output[0]: 2 of 4 elements differ\n"),
        (None, "output[0]: at [1, 2] expected 1.0, got 1.5; max difference 0.5\n"),
    ],
)
def test_a_wrong_answer_shows_the_first_mismatch(
    run: Callable[..., Result],
    model: Path,
    evaluator: ScriptedEvaluator,
    reason: str | None,
    shown: str,
) -> None:
    def script(request: JobRequest) -> JobReport:
        output = OutputReport(
            name="output[0]",
            shape=[4],
            dtype="float32",
            matches=False,
            reason=reason,
            max_abs_error=0.5,
            first_mismatch=ElementReport(index=[1, 2], expected=1.0, actual=1.5),
        )
        checks = [CheckReport(trial=0, seed=1, passed=False, outputs=[output])]
        changes = {"verdict": Verdict.WRONG_ANSWER, "phase": Phase.CHECK, "checks": checks}
        return accepted(request).model_copy(
            update={**changes, "candidate": side(runtime=None), "speedup": None}
        )

    evaluator.script = script
    result = run("compare", model, model)
    assert result.exit_code == 1
    assert "wrong_answer" in result.stdout
    assert "checks: 0 of 1 passed" in result.stdout
    assert shown in result.stdout


def test_warnings_of_the_task_and_what_the_kernel_printed_are_shown(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        candidate = side().model_copy(update={"stdout": "hello from the kernel\n"})
        warnings = ["zeros would pass"]
        return accepted(request).model_copy(
            update={"candidate": candidate, "task_warnings": warnings}
        )

    evaluator.script = script
    result = run("evaluate", model)
    assert "task: zeros would pass" in result.stdout
    assert "candidate printed: hello from the kernel" in result.stdout


def test_a_kernel_cannot_command_the_terminal(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        fault = Fault(
            kind=FaultKind.RUNTIME_ERROR,
            side="candidate",
            phase=Phase.CHECK,
            message="\x1b[2J[bold green]accepted[/]\r",
        )
        report = failed(request, FaultKind.RUNTIME_ERROR, Phase.CHECK)
        candidate = report.candidate.model_copy(update={"stdout": "\x1b]0;title\x07"})
        return report.model_copy(update={"fault": fault, "candidate": candidate})

    evaluator.script = script
    result = run("evaluate", model)
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "\\x1b[2J[bold green]accepted[/]\\r" in result.stdout


def test_a_failure_of_the_server_exits_3(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        return partial(request, Phase.CHECK).model_copy(update={"error": "the judge died"})

    evaluator.script = script
    result = run("evaluate", model)
    assert result.exit_code == 3
    assert "the judge died" in result.stderr
    result = run("evaluate", model, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"] == "the judge died"


def test_a_server_that_is_not_there_exits_3(model: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(model), "--server", "http://127.0.0.1:1"])
    assert result.exit_code == 3
    assert "cannot reach the server at http://127.0.0.1:1" in result.stderr


def test_an_address_without_its_scheme_is_told(model: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(model), "--url", "localhost:1"])
    assert result.exit_code == 3
    assert "localhost:1 is no address of a server: it begins with http://" in result.stderr


def test_a_request_that_the_server_refuses_exits_2(run: Callable[..., Result], model: Path) -> None:
    # A seed that the command line takes and the server does not.
    result = run("evaluate", model, "--seed", str(2**63), "--json")
    assert result.exit_code == 2
    (issue,) = json.loads(result.stdout)["validation_errors"]
    assert issue["field"] == "body -> seed"
    assert "body -> seed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["evaluate", "/no/such/file.py"], "cannot read /no/such/file.py"),
        (["evaluate", "MODEL", "--metadata", "{"], "--metadata is not JSON"),
        (["evaluate", "MODEL", "--contract", "/none"], "cannot read /none"),
        (["evaluate", "MODEL", "--trials", "0"], "--trials"),
        (["evaluate", "MODEL", "--type", "opencl"], "opencl"),
        (["compare", "MODEL"], "CANDIDATE"),
        (["compare", "MODEL", "MODEL", "--atol", "2"], "--atol"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_in_the_command_exits_2_and_judges_nothing(
    run: Callable[..., Result],
    model: Path,
    evaluator: ScriptedEvaluator,
    arguments: list[str],
    complaint: str,
) -> None:
    result = run(*[str(model) if argument == "MODEL" else argument for argument in arguments])
    assert result.exit_code == 2
    assert complaint in re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)
    assert evaluator.requests == []


def test_the_options_of_a_kernel_and_a_run_reach_the_server(
    run: Callable[..., Result], tmp_path: Path, evaluator: ScriptedEvaluator
) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text("__global__ void add() {}")
    contract = tmp_path / "contract.json"
    contract.write_text('{"args": [], "launch": {"grid": {"x": 1}, "block": {"x": 1}}}')
    options = [
        *("--kernel-name", "add", "--compiler-option=-O3", "--compiler-option=-DN=1"),
        *("--metadata", '{"algorithm": "none"}', "--contract", contract),
        *("--trials", "7", "--warmup", "0", "--checks", "3", "--timeout", "30", "--seed", "5"),
    ]
    result = run("evaluate", source, *options)
    assert result.exit_code == 0, result.output
    (request,) = evaluator.requests
    assert isinstance(request, EvaluateRequest)
    assert request.kernel.kernel_type is KernelType.CUDA
    assert request.kernel.metadata == {
        "algorithm": "none",
        "kernel_name": "add",
        "compiler_options": ["-O3", "-DN=1"],
    }
    assert request.kernel.io is not None
    assert (request.num_trials, request.num_warmup, request.num_checks) == (7, 0, 3)
    assert (request.timeout, request.seed) == (30, 5)


def test_the_options_of_a_comparison_reach_the_server(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    options = ["--function", "f", "--ref-metadata", '{"class_name": "A"}', "--atol", "0.5"]
    assert run("compare", model, model, *options).exit_code == 0
    (request,) = evaluator.requests
    assert isinstance(request, CompareRequest)
    assert request.custom_kernel.metadata == {"function_name": "f"}
    assert request.ref_kernel.metadata == {"class_name": "A"}
    assert (request.atol, request.rtol) == (0.5, None)
    assert run("compare", model, model).exit_code == 0
    last = evaluator.requests[-1]
    assert isinstance(last, CompareRequest)
    assert (last.atol, last.rtol) == (None, None)


@pytest.mark.parametrize("makes_inputs", [True, False])
def test_the_reference_shares_the_contract_unless_it_makes_its_inputs(
    run: Callable[..., Result],
    tmp_path: Path,
    evaluator: ScriptedEvaluator,
    makes_inputs: bool,
) -> None:
    reference = tmp_path / "reference.py"
    reference.write_text(MODEL + "\ndef get_inputs():\n    return []\n" * makes_inputs)
    candidate = tmp_path / "candidate.cu"
    candidate.write_text("__global__ void add() {}")
    contract = tmp_path / "contract.json"
    contract.write_text('{"args": [], "launch": {"grid": {"x": 1}, "block": {"x": 1}}}')
    assert run("compare", reference, candidate, "--contract", contract).exit_code == 0
    (request,) = evaluator.requests
    assert isinstance(request, CompareRequest)
    assert request.custom_kernel.io is not None
    assert (request.ref_kernel.io is None) is makes_inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three kernels whose names sort otherwise as text, and what is no kernel."""
    path = tmp_path / "problems"
    path.mkdir()
    for name in ("10_last", "2_second", "1_first"):
        (path / f"{name}.py").write_text(MODEL + f"# {name}\n")
    (path / "notes.txt").write_text("not a kernel")
    return path


def by_name(request: JobRequest) -> JobReport:
    """The second kernel does not compile."""
    assert isinstance(request, EvaluateRequest)
    if "2_second" in request.kernel.source_code:
        return failed(request, FaultKind.COMPILE_ERROR, Phase.LOAD)
    return accepted(request)


def test_a_terminal_shows_the_phases_of_its_own_job(
    run: Callable[..., Result],
    model: Path,
    folder: Path,
    evaluator: ScriptedEvaluator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator.script = lambda request: failed(request, FaultKind.CRASHED, Phase.CHECK)
    for arguments, shown in (([model], "completed"), ([folder], "3/3")):
        screen = Console(file=io.StringIO(), force_terminal=True, width=100)
        monkeypatch.setattr("kerneljudge.cli.runs.ERR", screen)
        assert run("evaluate", *arguments).exit_code == 1
        assert isinstance(screen.file, io.StringIO)
        assert shown in screen.file.getvalue()


def test_a_folder_is_judged_in_natural_order_and_summed_up(
    run: Callable[..., Result], folder: Path, evaluator: ScriptedEvaluator
) -> None:
    evaluator.script = by_name
    result = run("evaluate", folder, "--type", "torch")
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    rows = [line.split() for line in lines if ".py" in line]
    assert [row[:2] for row in rows] == [
        ["1_first.py", "accepted"],
        ["2_second.py", "compile_error"],
        ["10_last.py", "accepted"],
    ]
    assert "the candidate did not survive" in " ".join(rows[1])
    assert re.search(r"accepted +2", result.stdout)
    assert re.search(r"compile_error +1", result.stdout)


def test_a_folder_as_json_is_a_list_and_its_output_is_lines(
    run: Callable[..., Result], folder: Path, evaluator: ScriptedEvaluator, tmp_path: Path
) -> None:
    evaluator.script = by_name
    target = tmp_path / "results.jsonl"
    result = run("evaluate", folder, "--json", "--output", target, "--parallel", "2")
    assert result.exit_code == 1
    listed = json.loads(result.stdout)
    names = [Path(entry["file"]).name for entry in listed]
    assert names == ["1_first.py", "2_second.py", "10_last.py"]
    assert [entry["verdict"] for entry in listed] == ["accepted", "compile_error", "accepted"]
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert sorted(lines, key=lambda entry: names.index(Path(entry["file"]).name)) == listed
    assert "[3/3]" in result.stderr


def test_a_folder_goes_on_after_a_failure_of_the_server(
    run: Callable[..., Result], folder: Path, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        assert isinstance(request, EvaluateRequest)
        if "1_first" in request.kernel.source_code:
            return partial(request, Phase.CHECK).model_copy(update={"error": "boom"})
        return accepted(request)

    evaluator.script = script
    result = run("evaluate", folder, "--json")
    assert result.exit_code == 3
    first, *others = json.loads(result.stdout)
    assert "boom" in first["error"]
    assert [entry["verdict"] for entry in others] == ["accepted", "accepted"]


def test_a_file_that_the_server_does_not_take_has_a_row_and_fails_alone(
    folder: Path, evaluator: ScriptedEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with listening(evaluator, max_source_bytes=1024) as url:

        def run() -> Result:
            return CliRunner().invoke(app, ["evaluate", str(folder), "--url", url])

        (folder / "3_long.py").write_text(MODEL + "#" * 1024)
        result = run()
        assert result.exit_code == 1, result.output
        (row,) = [line for line in result.stdout.splitlines() if "3_long.py" in line]
        assert "not taken" in row
        assert "1024" in row
        assert re.search(r"accepted +3", result.stdout)
        assert re.search(r"not taken +1", result.stdout)
        assert len(evaluator.requests) == 3
        # Where none is taken, nothing was judged.
        for name in ("1_first", "2_second", "10_last"):
            (folder / f"{name}.py").unlink()
        assert run().exit_code == 2


def test_an_accepted_folder_exits_0(run: Callable[..., Result], folder: Path) -> None:
    assert run("evaluate", folder).exit_code == 0


def test_an_empty_folder_is_a_mistake(run: Callable[..., Result], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run("evaluate", empty)
    assert result.exit_code == 2
    assert "there is no *.py" in result.stderr


def demo_script(request: JobRequest, wrong: KernelType | None = None) -> JobReport:
    """What a CPU gives; `wrong` is judged otherwise."""
    assert isinstance(request, CompareRequest)
    kernel_type = request.custom_kernel.kernel_type
    if kernel_type is wrong:
        return failed(request, FaultKind.CRASHED, Phase.CHECK)
    if kernel_type in (KernelType.CUDA, KernelType.TORCH_CUDA):
        return failed(request, FaultKind.UNSUPPORTED, Phase.LOAD)
    return accepted(request)


def test_the_demo_shows_every_type_and_leaves_json(
    run: Callable[..., Result], evaluator: ScriptedEvaluator, tmp_path: Path
) -> None:
    evaluator.script = demo_script
    result = run("demo", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for kernel_type in KernelType:
        assert re.search(rf"^\W*{kernel_type.value} ", result.stdout, re.MULTILINE)
    assert "compiled and not run" in result.stdout
    bodies: list[dict[str, Any]] = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert {body["kernel_exec_result"]["metadata"]["kernel_type"] for body in bodies} == set(
        KernelType
    )


@pytest.mark.parametrize("wrong", list(KernelType))
def test_the_demo_fails_where_a_verdict_is_not_what_the_device_can_give(
    run: Callable[..., Result], evaluator: ScriptedEvaluator, tmp_path: Path, wrong: KernelType
) -> None:
    evaluator.script = lambda request: demo_script(request, wrong)
    result = run("demo", "--output", tmp_path)
    assert result.exit_code == 1
    assert "the candidate did not survive" in result.stdout


def test_the_demo_takes_unsupported_from_a_cpu_only(
    evaluator: ScriptedEvaluator, run: Callable[..., Result], tmp_path: Path
) -> None:
    evaluator.device_name = "cuda:0"
    evaluator.script = demo_script
    assert run("demo", "--output", tmp_path).exit_code == 1
    evaluator.script = accepted
    assert run("demo", "--output", tmp_path).exit_code == 0


def test_version_is_the_package_s() -> None:
    result = CliRunner().invoke(app, ["version"])
    assert result.stdout.strip() == f"kerneljudge {kerneljudge.__version__}"


def test_serving_with_impossible_settings_exits_2() -> None:
    result = CliRunner().invoke(app, ["serve", "--devices", "gpu"])
    assert result.exit_code == 2
    assert "'gpu' is no device" in result.stderr


def test_no_command_explains_the_commands() -> None:
    result = CliRunner().invoke(app, [], env={**os.environ, "COLUMNS": "100"})
    for command in ("serve", "evaluate", "compare", "doctor", "demo", "version", "watch"):
        assert command in result.output


def test_help_fills_the_lines_of_a_narrow_terminal() -> None:
    result = CliRunner().invoke(app, ["compare", "--help"], env={**os.environ, "COLUMNS": "80"})
    told = " ".join(result.output.split("Arguments")[0].split("\n"))
    assert "Exit code: 0 accepted, 1 judged and not accepted, 2 a mistake in the command" in told
    assert any(
        line.rstrip().endswith("or the request, 3 no verdict.")
        for line in result.output.splitlines()
    )


# --- jobs that nobody waits for at first


def submitted(run: Callable[..., Result], *arguments: str | Path) -> str:
    """Submits: the job's id."""
    result = run("submit", *arguments)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"[0-9a-f-]{36}\n", result.stdout)
    return result.stdout.strip()


def test_a_job_is_submitted_now_and_waited_for_later(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator, tmp_path: Path
) -> None:
    evaluator.steps = (Phase.BUILD,)
    job_id = submitted(run, model, "--seed", "5", "--priority", "3")
    result = run("wait", job_id, "--timeout", "0.05")
    assert result.exit_code == 3
    assert "has not ended" in result.stderr
    shown = run("job", job_id)
    assert shown.exit_code == 0
    assert re.search(r"priority +3", shown.stdout)
    evaluator.step()
    target = tmp_path / "result.json"
    result = run("wait", job_id, "--json", "--output", target)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["seed"] == 5
    assert json.loads(target.read_text())["job_id"] == job_id
    shown = run("job", job_id)
    assert re.search(r"status +completed", shown.stdout)
    assert re.search(r"candidate +add", shown.stdout)
    assert json.loads(run("job", job_id, "--json").stdout)["verdict"] == "accepted"


def test_a_comparison_is_submitted_with_its_reference(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    options = ["--reference", model, "--atol", "0.5", "--ref-metadata", '{"class_name": "A"}']
    result = run("submit", model, *options, "--json")
    assert json.loads(result.stdout)["kind"] == "compare"
    assert run("wait", json.loads(result.stdout)["job_id"]).exit_code == 0
    (request,) = evaluator.requests
    assert isinstance(request, CompareRequest)
    assert (request.atol, request.ref_kernel.metadata) == (0.5, {"class_name": "A"})
    lost = run("submit", model, "--rtol", "0.5")
    assert lost.exit_code == 2
    assert "give --reference" in lost.stderr


def test_one_idempotency_key_is_one_job(run: Callable[..., Result], model: Path) -> None:
    first, second = (submitted(run, model, "--idempotency-key", "mine") for _ in range(2))
    assert first == second


def test_watching_shows_the_phases_and_then_the_result(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    evaluator.steps = (Phase.BUILD, Phase.CHECK)
    evaluator.script = lambda request: failed(request, FaultKind.CRASHED, Phase.CHECK)
    job_id = submitted(run, model)
    evaluator.step(2)
    result = run("watch", job_id)
    assert result.exit_code == 1, result.output
    states = re.findall(r"^ +[\d.]+ s  (\w+)", result.stdout, re.MULTILINE)
    assert [state for state in states if state != "submitted"] == [
        *("queued", "compiling", "validating", "completed"),
    ]
    assert "the candidate did not survive" in result.stdout
    lines = [json.loads(line) for line in run("watch", job_id, "--json").stdout.splitlines()]
    assert [line["status"] for line in lines] == [*states, "completed"]
    assert lines[-1]["result"]["verdict"] == "crashed"


def test_jobs_are_listed_and_filtered(
    run: Callable[..., Result], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [submitted(run, model) for _ in range(3)]
    for job_id in made:
        run("wait", job_id)
    listed = json.loads(run("jobs", "--json", "--status", "completed").stdout)
    assert [job["job_id"] for job in listed] == made[::-1]
    assert json.loads(run("jobs", "--json", "--verdict", "crashed").stdout) == []
    assert len(json.loads(run("jobs", "--json", "--limit", "2").stdout)) == 2
    shown = run("jobs", "--kind", "evaluate")
    assert shown.exit_code == 0
    assert all(
        re.search(rf"^{job_id} +evaluate +completed +accepted", shown.stdout, re.M)
        for job_id in made
    )
    # What the other commands take is whole on a narrow terminal too.
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("jobs")
    assert all(re.search(rf"^{job_id}  completed +accepted", shown.stdout, re.M) for job_id in made)
    wrong = run("jobs", "--status", "no-such-state")
    assert wrong.exit_code == 2


def test_a_job_is_cancelled_once(
    run: Callable[..., Result], model: Path, evaluator: ScriptedEvaluator
) -> None:
    evaluator.steps = (Phase.BUILD,)
    job_id = submitted(run, model)
    result = run("cancel", job_id, "--json")
    assert result.exit_code == 0, result.output
    assert [job["job_id"] for job in json.loads(result.stdout)] == [job_id]
    waited = run("wait", job_id)
    assert waited.exit_code == 3
    assert "was cancelled" in waited.stderr
    evaluator.steps = ()
    done = submitted(run, model)
    run("wait", done)
    assert run("cancel", done).exit_code == 2


@pytest.mark.parametrize("command", ["wait", "watch", "job", "cancel"])
def test_an_unknown_job_exits_2(run: Callable[..., Result], command: str) -> None:
    result = run(command, "00000000-0000-0000-0000-000000000000")
    assert result.exit_code == 2
    assert "there is no job" in result.stderr


def test_stats_and_health_are_shown(run: Callable[..., Result], model: Path) -> None:
    run("evaluate", model)
    shown = run("stats")
    assert shown.exit_code == 0
    assert re.search(r"jobs_completed +1", shown.stdout)
    assert re.search(r"^compilation_metrics", shown.stdout, re.MULTILINE)
    assert json.loads(run("stats", "--json").stdout)["jobs_completed"] == 1
    well = run("health")
    assert well.exit_code == 0
    assert re.search(r"^healthy\n", well.stdout)
    assert re.search(r"^cpu .*a processor", well.stdout, re.MULTILINE)
    assert json.loads(run("health", "--json").stdout)["status"] == "healthy"


def test_a_server_without_a_device_is_unhealthy(
    run: Callable[..., Result], evaluator: ScriptedEvaluator
) -> None:
    evaluator.ready = False
    result = run("health")
    assert result.exit_code == 3
    assert result.stdout.startswith("unhealthy: ")
    assert json.loads(run("health", "--json").stdout)["status"] == "unhealthy"


@pytest.mark.parametrize("arguments", [["health"], ["stats"], ["jobs"], ["watch", "x"]])
def test_a_command_says_where_no_server_is(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--url", "http://127.0.0.1:1", "--json"])
    assert result.exit_code == 3
    assert "cannot reach the server at http://127.0.0.1:1" in json.loads(result.stdout)["error"]


def test_an_api_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(401, json={"error": "this API key is unknown here"})

    monkeypatch.setattr(
        httpx.HTTPTransport, "handle_request", lambda self, request: answer(request)
    )
    for arguments in (["--api-key", "kj_given"], []):
        result = CliRunner().invoke(
            app, ["jobs", *arguments], env={"KERNELJUDGE_API_KEY": "kj_environment"}
        )
        assert result.exit_code == 2
        assert "unknown here (--api-key, or KERNELJUDGE_API_KEY)" in result.stderr
    assert seen == ["Bearer kj_given", "Bearer kj_environment"]
