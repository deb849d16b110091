"""The addresses of the page."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import plotly  # type: ignore[import-untyped]
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

import kerneljudge
from kerneljudge.api.access import COOKIE, Access, Denied, of_own_page
from kerneljudge.api.pages import words
from kerneljudge.api.pages.views import Row, Summaries, samples, says_something, sides, timeline
from kerneljudge.schema import CompareRequest, Side, Verdict
from kerneljudge.service import DeviceState, JobService, Settings
from kerneljudge.service.access import Caller, Scope
from kerneljudge.service.evaluator import DeviceHealth
from kerneljudge.service.records import ACTIVE, Job, JobFilter, JobState

__all__ = ["add_pages"]

_PAGE_LENGTH: Final = 25
_MAX_CLIENTS: Final = 20
_MAX_RUNNING: Final = 100
_REFRESH_SECONDS: Final = 2
_MAX_FORM_BYTES: Final = 16 * 1024

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# Plotly adds style elements to the page that it draws on.
_WITH_PLOT: Final = f"{_POLICY}; style-src-elem 'self' 'unsafe-inline'"
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FOREVER: Final = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}
_MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_TONES: Final = {
    DeviceHealth.STARTING: "busy",
    DeviceHealth.READY: "good",
    DeviceHealth.QUARANTINED: "bad",
    DeviceHealth.STOPPED: "idle",
}


def add_pages(app: FastAPI, service: JobService, settings: Settings, access: Access) -> None:
    """Adds the page at `/`, with a page for each job below `/ui` and its files below `/static`."""
    pages = _Pages(service, settings, access)
    for path, method, endpoint in (
        ("/", "GET", pages.front),
        ("/ui/jobs/{job_id}", "GET", pages.job),
        ("/ui/jobs/{job_id}/{side}.txt", "GET", pages.source),
        ("/ui/jobs/{job_id}/cancel", "POST", pages.cancel),
        ("/ui/login", "GET", pages.ask_for_key),
        ("/ui/login", "POST", pages.log_in),
        ("/ui/logout", "POST", pages.log_out),
        ("/static/{name}", "GET", pages.static),
    ):
        app.add_api_route(path, endpoint, methods=[method], include_in_schema=False)
    app.add_exception_handler(_Instead, _answer_instead)


class _Instead(Exception):
    """Another answer than the one asked for."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


async def _answer_instead(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Instead)
    return error.response


@dataclass(frozen=True, slots=True)
class _Device:
    """A device as the front page shows it."""

    state: DeviceState
    tone: str
    utilization: float
    total: int
    jobs: list[Row]


class _Pages:
    """Answers with HTML."""

    def __init__(self, service: JobService, settings: Settings, access: Access) -> None:
        self._service = service
        self._settings = settings
        self._access = access
        self._summaries = Summaries(service)

    async def front(self, request: Request) -> Response:
        """Queue, devices, and recent jobs."""
        caller = await self._caller(request, Scope.READ)
        chosen = {
            name: request.query_params.get(name, "")
            for name in ("state", "verdict", "kind", "client", "cursor")
        }
        matching = self._filter(request, caller, chosen)
        try:
            page = await self._service.page(matching, _PAGE_LENGTH, chosen["cursor"] or None)
        except ValueError as error:
            raise self._refusal(request, 400, "No such page", str(error)) from None
        running = await self._service.page(
            JobFilter(states=ACTIVE, key_id=caller.sees), _MAX_RUNNING
        )
        stats = await self._service.stats()
        queue = self._service.queue()
        # To a key that sees its own jobs alone, the other clients are nobody's business.
        clients = sorted(
            (
                {"name": name, **share}
                for name, share in queue["clients"].items()
                if caller.sees is None or name == caller.client
            ),
            key=lambda client: (-client["waiting"] - client["running"], client["name"]),
        )
        devices = self._service.devices()
        filters = {name: value for name, value in chosen.items() if value and name != "cursor"}
        return self._page(
            "front.html",
            caller=caller,
            refresh=_REFRESH_SECONDS,
            queue=queue,
            clients=clients[:_MAX_CLIENTS],
            more_clients=len(clients[_MAX_CLIENTS:]),
            stats=stats,
            draining=self._service.draining,
            ready=any(device.ready for device in devices),
            devices=await self._devices(devices, stats, running.jobs),
            rows=await self._summaries.rows(page.jobs),
            chosen=chosen,
            filtered=bool(filters),
            everyone=caller.sees is None,
            states=[state.value for state in JobState],
            verdicts=[verdict.value for verdict in Verdict],
            newest="/?" + urlencode(filters) if filters else "/",
            older="/?" + urlencode(filters | {"cursor": page.next_cursor})
            if page.next_cursor is not None
            else None,
        )

    async def job(self, request: Request) -> Response:
        """One job."""
        caller = await self._caller(request, Scope.READ)
        job = await self._job(request, caller)
        asked = await self._service.request(job.job_id)
        if asked is None:
            raise self._no_such_job(request)
        # Not on the event loop: a long source takes a while.
        shown = await asyncio.to_thread(sides, job, asked)
        report = job.report
        # Those of a job that has ended come at once.
        past = self._service.events(job.job_id) if job.state.finished else None
        events = [event async for event in past] if past is not None else []
        known = [side for side in shown if side.report is not None]
        response = self._page(
            "job.html",
            caller=caller,
            refresh=None if job.state.finished else _REFRESH_SECONDS,
            job=job,
            report=report,
            environment=report.environment if report is not None else None,
            outcome=words.outcome_of(job),
            faults=[side.report.fault for side in known if side.report and side.report.fault],
            mismatches=_mismatches(job),
            warnings=report.task_warnings if report is not None else [],
            timeline=timeline(job, time.time()),
            events=events,
            sides=shown,
            timed=[side for side in known if side.report and side.report.runtime],
            built=[side for side in known if side.report and says_something(side.report)],
            samples=samples(shown),
            may_cancel=not job.state.finished and caller.may(Scope.SUBMIT),
        )
        response.headers["Content-Security-Policy"] = _WITH_PLOT
        return response

    async def source(self, request: Request) -> Response:
        """One kernel's source, as plain text."""
        job = await self._job(request, await self._caller(request, Scope.READ))
        asked = await self._service.request(job.job_id)
        side: Side = "reference" if request.path_params["side"] == "reference" else "candidate"
        if (
            asked is None
            or request.path_params["side"] != side
            or (side == "reference" and not isinstance(asked, CompareRequest))
        ):
            raise self._no_such_job(request)
        if isinstance(asked, CompareRequest):
            kernel = asked.ref_kernel if side == "reference" else asked.custom_kernel
        else:
            kernel = asked.kernel
        return Response(
            kernel.source_code.encode(), headers=_HEADERS, media_type="text/plain; charset=utf-8"
        )

    async def cancel(self, request: Request) -> Response:
        """Cancels a job, and shows it."""
        self._same_origin(request)
        caller = await self._caller(request, Scope.SUBMIT)
        job = await self._job(request, caller)
        await self._service.cancel(job.job_id)
        return RedirectResponse(f"/ui/jobs/{job.job_id}", 303, headers=_HEADERS)

    async def ask_for_key(self, request: Request) -> Response:
        """Asks for an API key."""
        following = _local(request.query_params.get("next", ""))
        if not await self._access.needed():
            return RedirectResponse(following, 303, headers=_HEADERS)
        return self._login(following, None)

    async def log_in(self, request: Request) -> Response:
        """Keeps an API key in a cookie, if it is one."""
        self._same_origin(request)
        form = await self._form(request)
        following = _local(form.get("next", ""))
        secret = form.get("key", "").strip()
        if await self._access.key_of(secret) is None:
            return self._login(following, "This API key is unknown here, or disabled.")
        response = RedirectResponse(following, 303, headers=_HEADERS)
        response.set_cookie(
            COOKIE, secret, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """Forgets the API key."""
        self._same_origin(request)
        response = RedirectResponse("/", 303, headers=_HEADERS)
        response.delete_cookie(
            COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return response

    async def static(self, request: Request) -> Response:
        """A file of the page. Its address has its version, so that it may be kept for ever."""
        name = request.path_params["name"]
        if name not in _static_files():
            raise self._refusal(request, 404, "Not found", "There is no such file.")
        headers = {**_FOREVER, "Vary": "Accept-Encoding"}
        content = _static_files()[name].read_bytes
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = await asyncio.to_thread(_compressed, name)
        else:
            body = await asyncio.to_thread(content)
        return Response(body, headers=headers, media_type=_MEDIA_TYPES[Path(name).suffix])

    async def _devices(
        self, states: list[DeviceState], stats: dict[str, Any], running: list[Job]
    ) -> list[_Device]:
        used = stats["gpu_utilization"]["utilization_by_gpu"]
        here = [job for job in running if job.server == self._service.server]
        return [
            _Device(
                state,
                _TONES[state.health],
                used[state.name]["utilization_pct"],
                used[state.name]["jobs"],
                await self._summaries.rows([job for job in here if job.device == state.index]),
            )
            for state in states
        ]

    def _filter(self, request: Request, caller: Caller, chosen: dict[str, str]) -> JobFilter:
        try:
            kind = chosen["kind"]
            if kind not in ("", "evaluate", "compare"):
                raise ValueError(f"{kind!r} is no kind of job")
            if not chosen["client"].isprintable():
                raise ValueError("a client’s name has printable characters alone")
            return JobFilter(
                states=frozenset({JobState(chosen["state"])}) if chosen["state"] else None,
                kind=kind or None,  # type: ignore[arg-type]
                verdict=Verdict(chosen["verdict"]) if chosen["verdict"] else None,
                client=chosen["client"] or None,
                key_id=caller.sees,
            )
        except ValueError as error:
            raise self._refusal(request, 400, "No such filter", str(error)) from None

    async def _caller(self, request: Request, scope: Scope) -> Caller:
        """Who asks. Raises the answer for one who may not."""
        try:
            caller = await self._access.caller_of(request)
        except Denied as denied:
            if denied.status_code != 401:
                raise self._refusal(
                    request, denied.status_code, "Not now", denied.detail, denied.headers
                ) from None
            address = request.url.path if request.method == "GET" else "/"
            raise _Instead(
                RedirectResponse("/ui/login?" + urlencode({"next": address}), 303, headers=_HEADERS)
            ) from None
        if not caller.may(scope):
            raise self._refusal(
                request,
                403,
                "Not with this key",
                f"This takes the scope “{scope}”, which this API key does not have.",
                caller=caller,
            )
        return caller

    async def _job(self, request: Request, caller: Caller) -> Job:
        """The job of the address, as far as the caller may know of it."""
        job_id = request.path_params["job_id"]
        try:
            uuid.UUID(job_id)
        except ValueError:
            raise self._no_such_job(request) from None
        job = await self._service.get(job_id)
        if job is None or (caller.sees is not None and job.key_id != caller.sees):
            raise self._no_such_job(request)
        return job

    def _no_such_job(self, request: Request) -> _Instead:
        return self._refusal(
            request,
            404,
            "No such job",
            "It was never submitted here, or ended so long ago that it was dropped.",
        )

    def _same_origin(self, request: Request) -> None:
        """Refuses what another site’s page has the browser send."""
        if not of_own_page(request):
            raise self._refusal(
                request, 403, "Not from there", "This is for forms of this page alone."
            )

    async def _form(self, request: Request) -> dict[str, str]:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM_BYTES:
                raise self._refusal(request, 413, "Too large", "This form is longer than any here.")
        return dict(parse_qsl(body.decode("utf-8", "replace")))

    def _login(self, following: str, error: str | None) -> Response:
        return self._page(
            "login.html", 401 if error else 200, caller=None, next=following, error=error
        )

    def _refusal(
        self,
        request: Request,
        status_code: int,
        title: str,
        text: str,
        headers: Mapping[str, str] | None = None,
        caller: Caller | None = None,
    ) -> _Instead:
        response = self._page("message.html", status_code, caller=caller, title=title, text=text)
        response.headers.update(headers or {})
        return _Instead(response)

    def _page(self, template: str, status_code: int = 200, **values: Any) -> Response:
        text = _ENVIRONMENT.get_template(template).render(
            {"refresh": None, **values},
            now=time.time(),
            version=kerneljudge.__version__,
            pod_name=self._settings.pod_name,
        )
        return Response(
            text.encode("utf-8", "replace"),
            status_code,
            headers=_HEADERS,
            media_type="text/html; charset=utf-8",
        )


def _mismatches(job: Job) -> list[str]:
    """What differs, of the first trial that failed."""
    checks = job.report.checks if job.report is not None and job.state.finished else []
    return [check.message for check in checks if not check.passed and check.message][:1]


def _local(address: str) -> str:
    """An address of this server; the front page for any other."""
    local = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if local and address.isprintable() else "/"


@functools.cache
def _static_files() -> dict[str, Path]:
    """Every file that a page may ask for, by its name."""
    own = Path(str(files("kerneljudge.api.pages"))) / "static"
    library = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return {path.name: path for path in (*own.iterdir(), library)}


@functools.cache
def _compressed(name: str) -> bytes:
    return gzip.compress(_static_files()[name].read_bytes(), 6, mtime=0)


@functools.cache
def _address(name: str) -> str:
    """The address of a static file, other for another content."""
    digest = hashlib.sha256(_static_files()[name].read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kerneljudge.api.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals["static"] = _address
    environment.filters.update(
        age=words.age,
        clock_time=words.clock_time,
        count=words.count,
        duration=words.duration,
        pretty=_pretty,
        size=words.size,
        times=words.times,
        word=words.word,
    )
    return environment


_ENVIRONMENT: Final = _environment()
