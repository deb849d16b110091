"""The access log's lines name the job that a request is about."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kerneljudge.service.logs import bind_job

__all__ = ["JobOfRequest"]


class JobOfRequest:
    """Binds the job of a path such as `/job/{job_id}` before the answer begins, which is when the
    access log's line is written. A route that submits a job binds it itself."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the application does."""
        bind_job(None)  # that of an earlier request on the same connection

        async def bound(message: Message) -> None:
            job_id = scope.get("path_params", {}).get("job_id")
            if job_id is not None:
                bind_job(job_id)
            await send(message)

        await self._app(scope, receive, bound)
