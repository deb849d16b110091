"""The page in a real browser, at a server that really judges."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from browser import Visit, chromium, visit
from listening import listening
from memory_keys import api_key
from pairs import REFERENCE, candidate, kernel
from playwright.sync_api import Browser, expect
from scripted import ScriptedEvaluator

from kerneljudge.service.access import Scope

pytestmark = pytest.mark.e2e

TRIALS = 25
ENDLESS = "while True:\n    pass"
HOSTILE = """\
</pre></span><script>window.owned = 1; document.title = "owned"</script>
<img src="http://evil.example/pixel.png" onerror="window.owned = 1">
<style>body { display: none }</style><svg onload="window.owned = 1"></svg>
<link rel="stylesheet" href="http://evil.example/style.css"><base href="http://evil.example/">
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def at(browser: Browser) -> Callable[..., Any]:
    """Visits a server: `with at(url) as seen`."""
    return lambda url, **context: visit(browser, url, **context)


@contextlib.contextmanager
def on_another_thread(context: contextlib.AbstractContextManager[str]) -> Iterator[str]:
    """Enters and leaves a context elsewhere: on this thread runs the event loop of the browser."""
    with ThreadPoolExecutor(1) as thread:
        value = thread.submit(context.__enter__).result()
        try:
            yield value
        finally:
            thread.submit(context.__exit__, None, None, None).result()


def compare(url: str, custom: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Has a comparison with the tests' reference judged."""
    body = {"ref_kernel": kernel(REFERENCE), "custom_kernel": custom, "num_trials": TRIALS}
    answer = httpx.post(f"{url}/compare", json=body | fields, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    judged: dict[str, Any] = answer.json()
    return judged


def submit(url: str, custom: dict[str, Any]) -> str:
    """Sends a comparison and does not wait: the job's id."""
    body = {"ref_kernel": kernel(REFERENCE), "custom_kernel": custom, "timeout": 100}
    answer = httpx.post(f"{url}/compare?wait=false", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def assert_quiet(seen: Visit) -> None:
    """Asserts that no script complained, and that nothing was asked of another server."""
    assert seen.complaints == []
    assert seen.elsewhere == []


def test_a_job_that_was_judged_is_listed_and_shown_with_its_samples(
    cpu_server: Any, at: Callable[..., Any]
) -> None:
    judged = compare(cpu_server.url, candidate("return a + b  # the candidate's own line"))
    assert len(judged["candidate"]["samples_ms"]) == TRIALS
    assert judged["candidate"]["runtime"]["max"] == pytest.approx(
        max(judged["candidate"]["samples_ms"]), abs=1e-6
    )
    with at(cpu_server.url) as seen:
        page = seen.page
        row = page.get_by_role("row").filter(has_text=judged["job_id"][:8])
        expect(row).to_contain_text("Accepted")
        expect(row).to_contain_text("torch → torch")
        row.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Accepted")
        expect(page.get_by_text("# the candidate's own line")).to_be_visible()
        expect(page.locator("#reference-2")).to_have_text("import torch")
        expect(page.get_by_role("row").filter(has_text="passed")).to_have_count(2)
        # A point a sample, of both kernels; and the bars of two histograms.
        expect(page.locator("#plot .scatterlayer .point")).to_have_count(2 * TRIALS)
        assert page.locator("#plot .barlayer .trace").count() == 2
        point = page.locator("#plot .scatterlayer .point").nth(3)
        point.hover(force=True)
        expect(page.locator("#plot .hoverlayer")).to_contain_text("run 4:")
        for name in ("Read", "Load", "Check", "Profile"):
            expect(page.locator("ol.legend")).to_contain_text(name)
        assert page.locator("svg.timeline rect").count() >= 6
        assert_quiet(seen)


def test_a_compile_error_is_told_in_words_with_the_compilers_own(
    cpu_server: Any, at: Callable[..., Any]
) -> None:
    judged = compare(cpu_server.url, kernel("class ModelNew(:\n    pass\n"))
    with at(f"{cpu_server.url}/ui/jobs/{judged['job_id']}") as seen:
        expect(seen.page.get_by_role("heading", level=1)).to_have_text("Compile error")
        expect(seen.page.locator("#faults")).to_contain_text("invalid syntax")
        expect(seen.page.locator("#plot")).to_be_hidden()
        assert_quiet(seen)


def test_hostile_source_and_output_are_shown_and_do_nothing(
    cpu_server: Any, at: Callable[..., Any]
) -> None:
    hostile = candidate(f"print({HOSTILE!r})\nraise RuntimeError({HOSTILE!r})")
    hostile["source_code"] += f"\n'''{HOSTILE}'''\n# \u202e{HOSTILE.splitlines()[0]}\n"
    hostile["metadata"] = {HOSTILE: HOSTILE}
    judged = compare(cpu_server.url, hostile)
    assert judged["verdict"] == "runtime_error"
    with at(f"{cpu_server.url}/ui/jobs/{judged['job_id']}") as seen:
        page = seen.page
        expect(page.get_by_role("heading", level=1)).to_have_text("Runtime error")
        # In the message, in what was printed, and in the source.
        for place in ("#faults", "#builds", "[aria-labelledby=source-candidate] .code"):
            expect(page.locator(place)).to_contain_text("<script>window.owned = 1")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.owned") is None
        assert "owned" not in page.title()
        assert page.locator("main img, main style, main script, main base").count() == 0
        assert_quiet(seen)


def test_a_job_is_cancelled_from_its_page_by_the_keyboard_alone(
    cpu_server: Any, at: Callable[..., Any]
) -> None:
    job_id = submit(cpu_server.url, candidate(ENDLESS))
    with at(cpu_server.url) as seen:
        page = seen.page
        # The front page follows it without being loaded again.
        page.evaluate("window.same = true")
        row = page.get_by_role("row").filter(has_text=job_id[:8])
        expect(row).to_contain_text("Checking", timeout=30_000)
        expect(page.locator("#devices")).to_contain_text(job_id[:8])
        assert page.evaluate("window.same") is True

        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        link = row.get_by_role("link")
        for _ in range(40):
            page.keyboard.press("Tab")
            if link.evaluate("link => link === document.activeElement"):
                break
        expect(link).to_be_focused()
        assert link.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/ui/jobs/{job_id}")

        button = page.get_by_role("button", name="Cancel job")
        button.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Cancelled", timeout=30_000)
        expect(button).to_have_count(0)
        assert_quiet(seen)
    answer = httpx.get(f"{cpu_server.url}/job/{job_id}", trust_env=False)
    assert answer.json()["status"] == "cancelled"


def test_a_job_page_follows_its_job_to_the_end_and_then_draws_the_plot(
    at: Callable[..., Any], cpu_server: Any
) -> None:
    job_id = submit(cpu_server.url, candidate("__import__('time').sleep(0.02)\nreturn a + b"))
    with at(f"{cpu_server.url}/ui/jobs/{job_id}") as seen:
        seen.page.evaluate("window.same = true")
        expect(seen.page.get_by_role("heading", level=1)).to_contain_text(
            "Accepted", timeout=60_000
        )
        expect(seen.page.locator("#plot .scatterlayer .point")).to_have_count(200)
        assert seen.page.evaluate("window.same") is True
        assert_quiet(seen)


def test_without_scripts_everything_but_the_plot_is_there(
    cpu_server: Any, at: Callable[..., Any]
) -> None:
    judged = compare(cpu_server.url, candidate("return a - b"))
    with at(cpu_server.url, java_script_enabled=False) as seen:
        page = seen.page
        assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
        page.get_by_label("Verdict").select_option("wrong_answer")
        page.get_by_role("button", name="Filter").click()
        expect(page.get_by_role("row").filter(has_text="Accepted")).to_have_count(0)
        page.get_by_role("link", name=judged["job_id"][:8]).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Wrong answer")
        expect(page.get_by_role("row").filter(has_text="failed")).not_to_have_count(0)
        expect(page.get_by_text("return a - b")).to_be_visible()
        assert_quiet(seen)


def test_a_narrow_screen_and_a_dark_one_are_served(cpu_server: Any, at: Callable[..., Any]) -> None:
    judged = compare(cpu_server.url, candidate("return a + b"))
    ground = "getComputedStyle(document.body).backgroundColor"
    phone = {"width": 360, "height": 700}
    with (
        at(cpu_server.url, viewport=phone) as light,
        at(cpu_server.url, viewport=phone, color_scheme="dark") as dark,
    ):
        for seen in (light, dark):
            for path in ("", f"/ui/jobs/{judged['job_id']}"):
                seen.page.goto(cpu_server.url + path)
                width = seen.page.evaluate("document.documentElement.scrollWidth")
                assert width <= phone["width"], path
            assert_quiet(seen)
        assert light.page.evaluate(ground) != dark.page.evaluate(ground)


def test_with_keys_in_force_the_page_asks_for_one_and_no_script_can_read_it(
    at: Callable[..., Any],
) -> None:
    keys = [api_key("alice", Scope.READ, Scope.SUBMIT)]
    with (
        on_another_thread(listening(ScriptedEvaluator(), keys=keys)) as url,
        at(url) as seen,
    ):
        page = seen.page
        field = page.get_by_role("textbox", name="API key")
        expect(field).to_be_focused()
        field.fill("kj_wrong")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("unknown here")
        field.fill("secret-alice")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("No jobs yet")).to_be_visible()
        expect(page.get_by_text("Key alice")).to_be_visible()
        assert page.evaluate("document.cookie") == ""
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.get_by_role("button", name="Forget key").click()
        expect(field).to_be_visible()
        assert page.context.cookies() == []
        # A wrong key is answered with 401, which Chromium tells its console.
        assert [said for said in seen.complaints if "401" not in said] == []
        assert seen.elsewhere == []
