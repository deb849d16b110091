"""The HTTP application of one service: every route, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import kerneljudge
from kerneljudge.api.access import Access
from kerneljudge.api.errors import add_errors
from kerneljudge.api.insight import add_insight
from kerneljudge.api.jobs import add_jobs
from kerneljudge.api.mcp.mount import mount_mcp
from kerneljudge.api.openapi import document
from kerneljudge.api.pacing import Paced
from kerneljudge.api.pages import add_pages
from kerneljudge.api.prometheus import add_metrics
from kerneljudge.api.replies import Replies
from kerneljudge.api.request_log import JobOfRequest
from kerneljudge.api.slow_clients import TimelyBodies
from kerneljudge.api.submitting import add_submitting
from kerneljudge.service import JobService, Settings
from kerneljudge.service.store import KeyStore

__all__ = ["create_app"]

_DESCRIPTION = """\
An online judge for GPU kernels: source in, verdict and times out.

A kernel that fails is no server error: HTTP 200 with a verdict. HTTP 400 says that the request is
malformed, HTTP 500 that the job ran out of time or that the server failed.
"""


def create_app(
    service: JobService, settings: Settings | None = None, keys: KeyStore | None = None
) -> FastAPI:
    """The application that serves a `service`, which starts and stops with it.

    The service's evaluator is started and stopped by the caller. Without `keys`, everyone may do
    everything.
    """
    settings = settings if settings is not None else Settings()
    access = Access(keys, settings)
    replies = Replies(service, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="KernelJudge",
        version=kerneljudge.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        # They load scripts from elsewhere, into pages that a key's cookie opens.
        docs_url=None,
        redoc_url=None,
        # It would lead wherever the header Host says, and from a proxy's HTTPS to HTTP.
        redirect_slashes=False,
    )
    app.add_middleware(TimelyBodies)
    add_submitting(app, service, settings, access, replies)
    add_jobs(app, service, access, replies)
    add_insight(app, service, access, replies)
    add_metrics(app, service, access)
    add_pages(app, service, settings, access)
    mount_mcp(app, service, settings, access)
    add_errors(app, replies)
    app.add_middleware(JobOfRequest)
    app.add_middleware(Paced)
    app.openapi = document(app)  # type: ignore[method-assign]
    return app
