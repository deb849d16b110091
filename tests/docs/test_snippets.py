"""The snippets of the README and the guides do what they show.

Each `python` block runs, in a file's order and in one namespace a file; so does each line of a
`bash` or `console` block that starts with `$ kerneljudge`. CONTRIBUTING.md says which comments
before a block change that.
"""

from __future__ import annotations

import os
import re
import shlex
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
COMMENT = re.compile(r"<!--\s*(?P<text>.*?)\s*-->\s*\Z", re.DOTALL)
COMMANDS = re.compile(r"^\$ (?P<command>kerneljudge\b.*(?:(?<=\\)\n.*)*)", re.MULTILINE)


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
        told = re.fullmatch(r"not run: (.+)", self.comment, re.DOTALL)
        return told[1] if told else None

    @property
    def needs_gpu(self) -> bool:
        return self.comment == "needs a GPU"

    @property
    def exit_code(self) -> int:
        """What its commands exit with."""
        told = re.fullmatch(r"exits with (\d+)", self.comment)
        return int(told[1]) if told else 0

    @property
    def commands(self) -> list[str]:
        return [match["command"].replace("\\\n", " ") for match in COMMANDS.finditer(self.text)]


def snippets(page: Path) -> list[Snippet]:
    """The blocks of a page that could be run, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        if match["language"] not in ("python", "bash", "console"):
            continue
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


def run_commands(snippet: Snippet, folder: Path, url: str) -> None:
    for command in snippet.commands:
        words = shlex.split(command.replace(LOCALHOST, url), comments=True)
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == snippet.exit_code, (
            f"{snippet.place}: {command} exited with {done.returncode}, not {snippet.exit_code}:\n"
            f"{done.stdout}\n{done.stderr}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run_as_shown(page, server, has_gpu, tmp_path, monkeypatch):
    for entry in ("examples", "docs", "README.md"):
        (tmp_path / entry).symlink_to(ROOT / entry)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    ran = 0
    for snippet in snippets(page):
        if snippet.not_run is not None or (snippet.needs_gpu and not has_gpu):
            continue
        if snippet.language == "python":
            run_python(snippet, namespace, server.url)
            ran += 1
        else:
            run_commands(snippet, tmp_path, server.url)
            ran += len(snippet.commands)
    if not ran:
        pytest.skip("shows nothing that is run here")


def test_every_python_snippet_is_run_or_says_why_not():
    unclear = [
        f"{snippet.place}: {snippet.comment}"
        for page in PAGES
        for snippet in snippets(page)
        if snippet.comment.startswith(("not run", "needs", "exits"))
        and not (snippet.not_run or snippet.needs_gpu or snippet.exit_code)
    ]
    assert not unclear, "\n".join(unclear)


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)
