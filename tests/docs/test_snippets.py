"""The snippets of the README and the guides do what they show.

Blocks run in a file's order. A `python` block runs in one namespace a file. Of a `bash` or
`console` block each command that starts with `$ kerneljudge`, `$ python` or `$ curl` runs in bash;
where the block shows output below it, the first word of what it prints must be the first word
shown. CONTRIBUTING.md says which comments before a block change that.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOCALHOST = "http://localhost:8000"

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
COMMENT = re.compile(r"<!--\s*(?P<text>(?:(?!-->).)*?)\s*-->\s*\Z", re.DOTALL)
PROGRAMS = ("kerneljudge", "python", "curl")
SHELLS = ("bash", "console")
TOLD = ("not run", "needs", "exits with", "saved as", "part of")


@dataclass(frozen=True)
class Snippet:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    comment: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def not_run(self) -> str | None:
        """Why it is not run."""
        return self._told(r"not run: (.+)")

    @property
    def needs_gpu(self) -> bool:
        return self.comment == "needs a GPU"

    @property
    def exit_code(self) -> int:
        """What its commands exit with."""
        return int(self._told(r"exits with (\d+)") or 0)

    @property
    def saved_as(self) -> str | None:
        """The file that it is the text of."""
        return self._told(r"saved as (\S+)")

    @property
    def part_of(self) -> str | None:
        """The variable of the page's namespace that this JSON is a part of."""
        return self._told(r"part of `(\w+)`")

    @property
    def understood(self) -> bool:
        return any(
            (self.not_run, self.needs_gpu, self.exit_code, self.saved_as, self.part_of),
        )

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command that is run, and the output that is shown below it."""
        found: list[tuple[str, str]] = []
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            if part.split()[0] not in PROGRAMS:
                continue
            lines = part.splitlines()
            length = 1
            while length < len(lines) and not ends_here("\n".join(lines[:length])):
                length += 1
            found.append(("\n".join(lines[:length]), "\n".join(lines[length:])))
        return found

    def _told(self, pattern: str) -> str | None:
        told = re.fullmatch(pattern, self.comment, re.DOTALL)
        return told[1] if told else None


def ends_here(command: str) -> bool:
    """Whether a command is whole: its quotes are closed, and no backslash continues it."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def snippets(page: Path) -> list[Snippet]:
    """The blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        comment = COMMENT.search(content[: match.start()])
        found.append(
            Snippet(
                page,
                line=content.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text=re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
                comment=comment["text"] if comment else "",
            )
        )
    return found


def run_python(snippet: Snippet, namespace: dict[str, object], url: str) -> None:
    # The lines before it keep the page's line numbers in tracebacks.
    source = "\n" * snippet.line + snippet.text.replace(LOCALHOST, url)
    exec(compile(source, str(snippet.page), "exec"), namespace)


def run_commands(snippet: Snippet, folder: Path, programs: Path, url: str) -> int:
    """Runs the block's commands; says how many."""
    ran = 0
    for command, shown in snippet.commands:
        if "curl" in command and shutil.which("curl") is None:
            continue
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.replace(LOCALHOST, url)],
            cwd=folder,
            env=os.environ
            | {
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(sys.path),
                "KERNELJUDGE_URL": url,
                "KERNELJUDGE_STATE_DIR": str(folder / "state"),
                "COLUMNS": "100",
                "no_proxy": "127.0.0.1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        told = f"{snippet.place}: {command}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == snippet.exit_code, f"exit code {done.returncode} of {told}"
        if shown.strip():
            words = (done.stdout + done.stderr).split()
            assert words[:1] == shown.split()[:1], f"another output of {told}"
        ran += 1
    return ran


def assert_part(shown: object, real: object, where: str) -> None:
    """Asserts that the JSON shown has no field that the real one lacks, and the same types.

    Numbers, texts and the lengths of lists may differ; null stands for anything, and anything for
    null.
    """
    if shown is None or real is None:
        return
    if isinstance(shown, float) and isinstance(real, int):
        real = float(real)
    assert type(shown) is type(real), f"{where} is {real!r}"
    if isinstance(shown, dict):
        assert isinstance(real, dict)
        for key, value in shown.items():
            assert key in real, f"{where} has no {key!r}"
            assert_part(value, real[key], f"{where}.{key}")
    if isinstance(shown, list) and isinstance(real, list):
        for index, (item, other) in enumerate(zip(shown, real, strict=False)):
            assert_part(item, other, f"{where}[{index}]")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kerneljudge` and `python`, as an activated environment has them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("kerneljudge", " -m kerneljudge"), ("python", "")):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run_as_shown(page, server, has_gpu, programs, tmp_path, monkeypatch):
    for entry in ("examples", "docs", "README.md"):
        (tmp_path / entry).symlink_to(ROOT / entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for snippet in snippets(page):
        if snippet.not_run is not None or (snippet.needs_gpu and not has_gpu):
            continue
        if snippet.saved_as is not None:
            path = tmp_path / snippet.saved_as
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(snippet.text, encoding="utf-8")
        elif snippet.part_of is not None:
            assert_part(json.loads(snippet.text), namespace[snippet.part_of], snippet.place)
            ran += 1
        elif snippet.language == "python":
            run_python(snippet, namespace, server.url)
            ran += 1
        elif snippet.language in SHELLS:
            ran += run_commands(snippet, tmp_path, programs, server.url)
    if not ran:
        pytest.skip("shows nothing that is run here")


def test_every_snippet_is_run_or_says_why_not():
    unclear = [
        f"{snippet.place}: {snippet.comment or 'no command that is run'}"
        for page in PAGES
        for snippet in snippets(page)
        if not snippet.understood
        and (
            snippet.comment.startswith(TOLD)
            or (snippet.language in SHELLS and not snippet.commands)
        )
    ]
    assert not unclear, "\n".join(unclear)


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
            if "://" in target:
                continue
            linked = page.parent / target if target else page
            if not linked.exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and anchor not in anchors(linked):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert not broken, "\n".join(broken)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
