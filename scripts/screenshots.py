"""Takes the pictures of the page that the guides show: `python scripts/screenshots.py`.

Starts a server of its own, has kernels judged on whatever devices there are, and looks at the page
with the system's Chromium. Needs the extra `dev`.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import textwrap
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from kerneljudge.cli.private import private_server

FOLDER: Final = Path(__file__).parents[1] / "docs" / "images"

REFERENCE: Final = """
    import torch
    from torch import nn


    class Model(nn.Module):
        \"\"\"GELU, in its approximation by tanh.\"\"\"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = 0.7978845608 * (x + 0.044715 * x * x * x)
            return 0.5 * x * (1 + torch.tanh(inner))


    def get_inputs() -> list[torch.Tensor]:
        return [torch.randn(512, 512)]


    def get_init_inputs() -> list[object]:
        return []
"""
CANDIDATE: Final = """
    import torch
    from torch import nn
    from torch.nn import functional


    class ModelNew(nn.Module):
        \"\"\"GELU by PyTorch's fused kernel: one pass over memory instead of eight.\"\"\"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return {expression}
"""
FUSED: Final = 'functional.gelu(x, approximate="tanh")'
EXPRESSIONS: Final = (
    ("alice", FUSED),
    ("alice", "functional.gelu(x)"),
    ("bob", "functional.relu(x)"),
    ("bob", "functional.gelu(x, approximate='tan')"),
    ("alice", "functional.silu(1.702 * x) / 1.702"),
    ("carol", "x * torch.sigmoid(1.5957691216 * (x + 0.044715 * x**3))"),
    ("carol", "functional.gelu(x, approximate='tanh'"),
    ("bob", "functional.gelu(x.half(), approximate='tanh').float()"),
    ("alice", FUSED),
)
ENDLESS: Final = "x if all(True for _ in iter(int, 1)) else x"


def comparison(expression: str) -> dict[str, Any]:
    """A request that compares an expression with the reference."""
    candidate = textwrap.dedent(CANDIDATE).replace("{expression}", expression).lstrip()
    return {
        "ref_kernel": {
            "source_code": textwrap.dedent(REFERENCE).lstrip(),
            "kernel_type": "torch",
        },
        "custom_kernel": {
            "source_code": candidate,
            "kernel_type": "torch",
            "metadata": {"model": "an example", "attempt": 3},
        },
        "num_trials": 200,
        "timeout": 60,
    }


def judged(url: str, client: str, expression: str) -> dict[str, Any]:
    """Has a comparison judged: its result."""
    answer = httpx.post(
        f"{url}/compare",
        json=comparison(expression),
        headers={"X-KernelJudge-Client": client},
        timeout=120,
        trust_env=False,
    )
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def picture(page: Page, name: str, height: int | None = None) -> None:
    """Saves what a page shows, from its top on."""
    page.wait_for_load_state("networkidle")
    width = page.viewport_size["width"] if page.viewport_size else 1280
    whole = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height or whole, whole)}
    page.screenshot(path=FOLDER / name, full_page=True, clip=clip)  # type: ignore[arg-type]


def visit(browser: Browser, url: str, width: int = 1180, scheme: str = "light") -> Page:
    """A page of a new profile."""
    profile = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = profile.new_page()
    page.goto(url)
    return page


def main() -> None:
    """Takes all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        private_server() as url,
        concurrent.futures.ThreadPoolExecutor() as threads,
        sync_playwright() as playwright,
    ):
        for client, expression in EXPRESSIONS[:-1]:
            judged(url, client, expression)
        best = judged(url, *EXPRESSIONS[-1])
        wrong = judged(url, "bob", "functional.relu(x)")
        endless = [
            threads.submit(judged, url, client, ENDLESS) for client in ("alice", "bob", "alice")
        ]
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        front = visit(browser, url)
        front.get_by_text("Checking").first.wait_for(timeout=60_000)
        picture(front, "front.png")
        picture(visit(browser, url, scheme="dark"), "front-dark.png", 900)
        address = f"{url}/ui/jobs/{best['job_id']}"
        picture(visit(browser, address), "job.png")
        picture(visit(browser, address, scheme="dark"), "job-dark.png", 1150)
        picture(visit(browser, address, width=390), "job-phone.png", 1500)
        picture(visit(browser, f"{url}/ui/jobs/{wrong['job_id']}"), "job-wrong.png", 900)
        browser.close()
        running = httpx.get(f"{url}/jobs?limit=10", trust_env=False).json()["jobs"]
        for job in running:
            if job["finished_at"] is None:
                httpx.delete(f"{url}/job/{job['job_id']}", timeout=60, trust_env=False)
        concurrent.futures.wait(endless)


if __name__ == "__main__":
    main()
