"""The store of jobs and API keys in SQLite or PostgreSQL."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects import postgresql, sqlite

from kerneljudge.schema import JobReport, JobRequest, Phase
from kerneljudge.service.errors import IdempotencyConflict, QueueFull, QuotaExceeded
from kerneljudge.service.records import (
    ACTIVE,
    Job,
    JobCounts,
    JobEvent,
    JobFilter,
    JobPage,
    JobState,
    Lease,
    QueuedJob,
)
from kerneljudge.service.store import codec
from kerneljudge.service.store.database import Database
from kerneljudge.service.store.keys import SqlKeys
from kerneljudge.service.store.protocol import Renewal, StoreLimits
from kerneljudge.service.store.rows import (
    NewRows,
    Row,
    conditions,
    cursor_after,
    event_from,
    job_from,
    number_of,
)
from kerneljudge.service.store.tables import events, jobs, reports, requests

__all__ = ["SqlStore"]

_RETRY_AFTER = 5.0
"""Seconds after which a place may be free, as far as a store can tell."""

_REMOVED_AT_ONCE = 500
"""Jobs that one transaction removes, so that those of jobs that run never wait for long."""

_ASKED_AT_ONCE = 1000
"""Jobs that one statement names. Databases bound its parameters."""

_UNLEASED: dict[str, Any] = {
    "lease_server": None,
    "lease_token": None,
    "lease_expires_at": None,
}
_UNBEGUN: dict[str, Any] = {
    "phase": None,
    "started_at": None,
    "acquired_at": None,
    "server": None,
    "device": None,
    "device_name": None,
}
"""What a job has not, before a server has taken it up and after it was queued again."""

# Statements are made once: making one takes as long as running it.
_JOB_ID: sa.BindParameter[str] = bindparam("id")
_JOB = sa.select(jobs).where(jobs.c.job_id == _JOB_ID)
_WITH_REPORT = sa.select(jobs, reports.c.content.label("report")).outerjoin(
    reports, reports.c.job_id == jobs.c.job_id
)
_JOB_WITH_REPORT = _WITH_REPORT.where(jobs.c.job_id == _JOB_ID)
_REPORT = sa.select(reports.c.content).where(reports.c.job_id == _JOB_ID)
_REQUEST = sa.select(requests.c.content).where(requests.c.job_id == _JOB_ID)
_NAMED = (
    _WITH_REPORT.add_columns(requests.c.digest)
    .join(requests, requests.c.job_id == jobs.c.job_id)
    .where(
        jobs.c.client == bindparam("client"),
        sa.literal_column("coalesce(jobs.key_id, '')")
        == bindparam("key", type_=jobs.c.key_id.type),
        jobs.c.idempotency_key == bindparam("idempotency_key"),
    )
)
_MANY = sa.select(jobs).where(jobs.c.job_id.in_(bindparam("ids", expanding=True)))
_QUEUED = (
    sa.select(*(jobs.c[name] for name in QueuedJob.__dataclass_fields__))
    .where(jobs.c.state == JobState.QUEUED)
    .order_by(jobs.c.number)
    .limit(bindparam("count", type_=sa.Integer))
)
_EVENTS = (
    sa.select(events)
    .where(events.c.job_id == _JOB_ID, events.c.number > bindparam("after"))
    .order_by(events.c.number)
)
_COUNTS = sa.select(jobs.c.state, sa.func.count(), sa.func.avg(jobs.c.created_at)).group_by(
    jobs.c.state
)
_COUNT_QUEUED = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
_COUNT_UNFINISHED = (
    sa.select(sa.func.count())
    .select_from(jobs)
    .where(jobs.c.key_id == bindparam("key"), jobs.c.finished_at.is_(None))
)
_INSERT = sa.insert(jobs).returning(jobs.c.job_id, jobs.c.number)
_UPDATE = sa.update(jobs).where(jobs.c.number == bindparam("locked")).returning(*jobs.c)
_RENEW = sa.update(jobs).where(jobs.c.number.in_(bindparam("locked", expanding=True)))
_REPORT_IN_SQLITE = sqlite.insert(reports)
_REPORT_IN_POSTGRESQL = postgresql.insert(reports)
_KEEP_REPORT: dict[str, sa.Insert] = {
    "sqlite": _REPORT_IN_SQLITE.on_conflict_do_update(
        index_elements=[reports.c.job_id], set_={"content": _REPORT_IN_SQLITE.excluded.content}
    ),
    "postgresql": _REPORT_IN_POSTGRESQL.on_conflict_do_update(
        index_elements=[reports.c.job_id], set_={"content": _REPORT_IN_POSTGRESQL.excluded.content}
    ),
}
_REMOVE = sa.delete(jobs).where(
    jobs.c.number.in_(
        sa.select(jobs.c.number)
        .where(jobs.c.finished_at <= bindparam("before"))
        .limit(_REMOVED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
)


def _locking(*which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Reads jobs and locks them to the end of the transaction. In the order of submission, as
    every transaction does that waits for locks, so that no two wait for each other."""
    return sa.select(jobs).where(*which).order_by(jobs.c.number).with_for_update()


def _locking_free(*which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Likewise, but leaves out the jobs that another transaction has locked: it is renewing them,
    or taking them over already."""
    return sa.select(jobs).where(*which).with_for_update(skip_locked=True)


_LOCK = _locking(jobs.c.job_id == _JOB_ID)
_LOCK_QUEUED = _locking(jobs.c.job_id == _JOB_ID, jobs.c.state == JobState.QUEUED)
_LOCK_LEASED = _locking(jobs.c.job_id == _JOB_ID, jobs.c.lease_token == bindparam("token"))
_LOCK_MANY = _locking(jobs.c.job_id.in_(bindparam("ids", expanding=True)))
_LOCK_ALL_LEASED = _locking_free(jobs.c.lease_token.is_not(None))
_LOCK_EXPIRED = _locking_free(jobs.c.lease_expires_at <= bindparam("now"))
_LOCK_OVERDUE = _locking_free(
    jobs.c.state == JobState.QUEUED, jobs.c.deadline_at <= bindparam("now")
)


class SqlStore(SqlKeys):
    """Keeps jobs and API keys in one database. It is a `JobStore` and a `KeyStore`.

    A write to a job first locks the job's row, and finds it only under the lease, or in the
    state, that the write is for; so of two that write, the second sees what the first has done.

    What tells of a job that runs (`claim`, `progress`, `renew`) does not wait for the disk. Where
    the database's machine loses its power, such a job may be as it was a moment before: then it is
    judged again, under a lease of its own.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        """Takes over an open database. `clock` gives seconds since the epoch."""
        self._database = database
        self._clock = clock

    @classmethod
    async def open(
        cls, url: str, *, serving: bool = True, clock: Callable[[], float] = time.time
    ) -> SqlStore:
        """Opens the database of a SQLAlchemy URL, and makes or migrates its tables.

        A server takes a SQLite file for itself; `serving=False` opens it beside a server, for
        what takes up no jobs, such as managing keys. Raises `DatabaseUnusable`.
        """
        return cls(await Database.open(url, serving=serving), clock=clock)

    @property
    def exclusive(self) -> bool:
        """Whether one server at a time has this database, so that the leases that it finds when
        it starts are those of servers that have ended."""
        return self._database.exclusive

    async def create(
        self, jobs: Sequence[tuple[Job, JobRequest]], limits: StoreLimits
    ) -> list[tuple[Job, bool]]:
        """Stores new jobs, all of them or none, each with its request.

        For each, in the same order: the job as it is stored, and whether it is new. One whose
        client, key and idempotency key are those of a stored job is not stored again: that job
        is returned, if its request is the same.

        Raises `QueueFull`, `QuotaExceeded` (for the new ones alone), and `IdempotencyConflict`
        where the stored job's request is another.
        """
        given = await self._database.aside(lambda: [NewRows.of(*pair) for pair in jobs])
        return await self._database.write(lambda connection: _create(connection, given, limits))

    async def get(self, job_id: str) -> Job | None:
        """The job with its report, or None."""

        def work(connection: sa.Connection) -> Job | None:
            row = connection.execute(_JOB_WITH_REPORT, {"id": job_id}).one_or_none()
            return job_from(row, row.report) if row is not None else None

        return await self._database.read(work)

    async def get_many(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Those of these jobs that exist, without reports."""
        ids = list(job_ids)

        def work(connection: sa.Connection) -> dict[str, Job]:
            found = {}
            for start in range(0, len(ids), _ASKED_AT_ONCE):
                some = {"ids": ids[start : start + _ASKED_AT_ONCE]}
                found.update({row.job_id: job_from(row) for row in connection.execute(_MANY, some)})
            return found

        return await self._database.read(work)

    async def request(self, job_id: str) -> JobRequest | None:
        """What was asked for, or None for an unknown job."""

        def work(connection: sa.Connection) -> JobRequest | None:
            packed = connection.scalar(_REQUEST, {"id": job_id})
            return codec.unpack_request(packed) if packed is not None else None

        return await self._database.read(work)

    async def page(self, matching: JobFilter, limit: int, cursor: str | None = None) -> JobPage:
        """One page of the jobs that match, newest first. Raises ValueError for a cursor that is
        none."""
        query = sa.select(jobs).where(*conditions(matching))
        if cursor is not None:
            query = query.where(jobs.c.number < number_of(cursor))
        query = query.order_by(jobs.c.number.desc()).limit(limit + 1)

        def work(connection: sa.Connection) -> JobPage:
            rows = connection.execute(query).all()
            more = len(rows) > limit
            return JobPage(
                [job_from(row) for row in rows[:limit]],
                cursor_after(rows[limit - 1].number) if more else None,
            )

        return await self._database.read(work)

    async def queued(self, limit: int) -> list[QueuedJob]:
        """The jobs that wait, in the order of submission."""

        def work(connection: sa.Connection) -> list[QueuedJob]:
            return [QueuedJob(*row) for row in connection.execute(_QUEUED, {"count": limit})]

        return await self._database.read(work)

    async def claim(self, job_id: str, lease: Lease, now: float) -> tuple[Job, JobRequest] | None:
        """Takes a queued job under a lease: its state is `submitted`, its attempts one more.

        None where the job is not queued any more, another server having taken it or its client
        cancelled it.
        """

        def work(connection: sa.Connection) -> tuple[Job, bytes] | None:
            row = connection.execute(_LOCK_QUEUED, {"id": job_id}).one_or_none()
            if row is None:
                return None
            claimed = _change(
                connection,
                row,
                now,
                state=JobState.SUBMITTED,
                attempts=row.attempts + 1,
                server=lease.server,
                lease_server=lease.server,
                lease_token=lease.token,
                lease_expires_at=lease.expires_at,
            )
            packed = connection.execute(_REQUEST, {"id": job_id}).scalar_one()
            return job_from(claimed), packed

        claimed = await self._database.write(work, lasting=False)
        if claimed is None:
            return None
        job, packed = claimed
        return job, await self._database.aside(codec.unpack_request, packed)

    async def progress(
        self,
        job_id: str,
        token: str,
        state: JobState,
        report: JobReport,
        *,
        device: int | None,
        device_name: str | None,
        started_at: float | None,
        acquired_at: float | None,
        now: float,
        passed: Sequence[tuple[JobState, Phase, float]] = (),
    ) -> bool:
        """Keeps a partial report and the state; an event, where state or phase is new.

        `passed` are phases that the job went through before, since the last report that was
        kept, each with its state and when it began: an event each.

        False, and nothing kept, where the lease is not this one any more.
        """
        packed = await self._database.aside(codec.pack, report)

        def work(connection: sa.Connection) -> bool:
            row = _leased(connection, job_id, token)
            if row is None:
                return False
            _change(
                connection,
                row,
                now,
                passed=passed,
                state=state,
                phase=report.phase,
                device=device,
                device_name=device_name,
                started_at=started_at,
                acquired_at=acquired_at,
            )
            _keep_report(connection, job_id, packed)
            return True

        return await self._database.write(work, lasting=False)

    async def finish(
        self,
        job_id: str,
        token: str,
        state: JobState,
        report: JobReport | None,
        error: str | None,
        *,
        device: int | None,
        device_name: str | None,
        now: float,
    ) -> Job | None:
        """Ends a job, whose lease ends with it. `report` None keeps the last partial one.

        The job as it is then; None, and nothing kept, where the lease is not this one any more.
        """
        final = None
        if report is not None:
            packed = await self._database.aside(codec.pack, report)
            final = report.verdict, report.phase, packed

        def work(connection: sa.Connection) -> Job | None:
            row = _leased(connection, job_id, token)
            if row is None:
                return None
            values: dict[str, Any] = {"device": device, "device_name": device_name}
            if final is not None:
                values["verdict"], values["phase"], packed = final
                _keep_report(connection, job_id, packed)
            return _with_report(connection, _end(connection, row, now, state, error, **values))

        return await self._database.write(work)

    async def release(
        self, job_id: str, token: str, reason: str, now: float, *, attempted: bool = True
    ) -> bool:
        """Puts a job back into the queue, with its place in it; its partial report goes.

        Not `attempted` is one that a stopping server gives back: it counts as no attempt. A job
        that is to be cancelled is cancelled instead. False where the lease is not this one.
        """

        def work(connection: sa.Connection) -> bool:
            row = _leased(connection, job_id, token)
            if row is None:
                return False
            _let_go(connection, row, now, reason, row.attempts - (not attempted))
            return True

        return await self._database.write(work)

    async def renew(self, leases: Mapping[str, str], expires_at: float) -> dict[str, Renewal]:
        """Extends the leases with these tokens, by job; what became of each."""

        def work(connection: sa.Connection) -> dict[str, Renewal]:
            found = connection.execute(_LOCK_MANY, {"ids": list(leases)})
            held = {row.job_id: row for row in found if row.lease_token == leases[row.job_id]}
            connection.execute(
                _RENEW,
                {"locked": [row.number for row in held.values()], "lease_expires_at": expires_at},
            )
            return {
                job_id: Renewal(
                    held=job_id in held,
                    cancel_requested=job_id in held and held[job_id].cancel_reason is not None,
                )
                for job_id in leases
            }

        return await self._database.write(work, lasting=False)

    async def cancel(self, job_id: str, reason: str, now: float) -> Job | None:
        """Cancels a queued job at once, and asks for the end of one that runs.

        The job as it is then, unchanged if it had ended; None for an unknown one.
        """

        def work(connection: sa.Connection) -> Job | None:
            row = connection.execute(_LOCK, {"id": job_id}).one_or_none()
            if row is None:
                return None
            if row.state == JobState.QUEUED:
                row = _end(connection, row, now, JobState.CANCELLED, reason, cancel_reason=reason)
            elif row.state in ACTIVE and row.cancel_reason is None:
                row = _change(connection, row, now, reason, cancel_reason=reason)
            return _with_report(connection, row)

        return await self._database.write(work)

    async def recover(
        self, now: float, max_attempts: int, *, all_leases: bool = False
    ) -> list[Job]:
        """Takes over the jobs whose lease has expired, or all leased ones.

        Each is queued again, with an event that says why; or cancelled, where that was asked for;
        or failed, after `max_attempts`. Those that have ended so are returned with the rest.
        """

        def work(connection: sa.Connection) -> list[Job]:
            if all_leases:
                rows = connection.execute(_LOCK_ALL_LEASED).all()
            else:
                rows = connection.execute(_LOCK_EXPIRED, {"now": now}).all()
            return [
                _with_report(connection, _recover(connection, row, now, max_attempts))
                for row in rows
            ]

        return await self._database.write(work)

    async def end_overdue(self, now: float) -> list[Job]:
        """Fails the queued jobs whose deadline has passed; returns them."""

        def work(connection: sa.Connection) -> list[Job]:
            return [
                job_from(
                    _end(
                        connection,
                        row,
                        now,
                        JobState.FAILED,
                        f"its deadline, {row.deadline_at - row.created_at:g} s after its "
                        "submission, passed while it waited",
                    )
                )
                for row in connection.execute(_LOCK_OVERDUE, {"now": now}).all()
            ]

        return await self._database.write(work)

    async def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """The events of a job with a number above `after`, in order."""

        def work(connection: sa.Connection) -> list[JobEvent]:
            # A client may say any number; the column has 32 bits.
            number = min(max(after, 0), 2**31 - 1)
            rows = connection.execute(_EVENTS, {"id": job_id, "after": number})
            return [event_from(row) for row in rows]

        return await self._database.read(work)

    async def counts(self, key_id: str | None = None) -> JobCounts:
        """Counts the jobs; of one key, if given."""
        query = _COUNTS if key_id is None else _COUNTS.where(jobs.c.key_id == key_id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        total = sum(count for _, count, _ in rows)
        ages = sum(count * (self._clock() - created_at) for _, count, created_at in rows)
        return JobCounts(
            total=total,
            by_state={JobState(state): count for state, count, _ in rows},
            average_age=ages / total if total else 0.0,
        )

    async def remove_finished(self, ended_before: float) -> int:
        """Drops the jobs that ended at or before this time; says how many."""
        total = 0
        while removed := await self._database.write(
            lambda connection: connection.execute(_REMOVE, {"before": ended_before}).rowcount
        ):
            total += removed
        return total

    async def check(self) -> None:
        """Raises `DatabaseUnusable` unless the database answers."""
        await self._database.read(lambda connection: connection.execute(_JOB, {"id": ""}).all())

    async def close(self) -> None:
        """Closes every connection."""
        await self._database.close()


def _create(
    connection: sa.Connection, given: Sequence[NewRows], limits: StoreLimits
) -> list[tuple[Job, bool]]:
    Database.one_at_a_time(connection)
    result: list[tuple[Job, bool]] = []
    new: list[NewRows] = []
    named: dict[tuple[str, str | None, str], tuple[Job, str]] = {}
    for rows in given:
        job, digest = rows.job, rows.in_requests["digest"]
        if job.idempotency_key is not None:
            name = job.client, job.key_id, job.idempotency_key
            known = named.get(name) or _stored_as(connection, *name)
            if known is not None:
                stored, stored_digest = known
                if stored_digest != digest:
                    raise IdempotencyConflict(
                        f"the idempotency key {job.idempotency_key!r} came with another request "
                        f"before, that of job {stored.job_id}: send a new request with a new key"
                    )
                result.append((stored, False))
                continue
            named[name] = job, digest
        new.append(rows)
        result.append((job, True))
    if new:
        _check_limits(connection, [rows.job for rows in new], limits)
        inserted = connection.execute(_INSERT, [rows.in_jobs for rows in new])
        numbers = {row.job_id: row.number for row in inserted}
        result = [
            (replace(job, number=numbers.get(job.job_id, job.number)), is_new)
            for job, is_new in result
        ]
        connection.execute(sa.insert(requests), [rows.in_requests for rows in new])
        connection.execute(sa.insert(events), [rows.in_events for rows in new])
    return result


def _stored_as(
    connection: sa.Connection, client: str, key_id: str | None, idempotency_key: str
) -> tuple[Job, str] | None:
    """The job that has this idempotency key, and its request's digest."""
    row = connection.execute(
        _NAMED, {"client": client, "key": key_id or "", "idempotency_key": idempotency_key}
    ).one_or_none()
    return (job_from(row, row.report), row.digest) if row is not None else None


def _check_limits(connection: sa.Connection, new: Sequence[Job], limits: StoreLimits) -> None:
    if limits.max_queued is not None:
        queued = connection.execute(_COUNT_QUEUED).scalar_one()
        if queued + len(new) > limits.max_queued:
            raise QueueFull(
                f"{queued} jobs wait, of at most {limits.max_queued}; there is no place for "
                f"{len(new)} more: send them again later",
                _RETRY_AFTER,
            )
    if limits.max_unfinished_of_key is not None:
        for key_id, count in Counter(job.key_id for job in new if job.key_id is not None).items():
            unfinished = connection.execute(_COUNT_UNFINISHED, {"key": key_id}).scalar_one()
            if unfinished + count > limits.max_unfinished_of_key:
                raise QuotaExceeded(
                    f"this key has {unfinished} unfinished jobs, of at most "
                    f"{limits.max_unfinished_of_key}; there is no place for {count} more: send "
                    "them again when others have ended",
                    _RETRY_AFTER,
                )


def _leased(connection: sa.Connection, job_id: str, token: str) -> Row | None:
    """The job, locked, if its lease is this one."""
    return connection.execute(_LOCK_LEASED, {"id": job_id, "token": token}).one_or_none()


def _change(
    connection: sa.Connection,
    row: Row,
    now: float,
    message: str | None = None,
    passed: Sequence[tuple[JobState, Phase, float]] = (),
    **values: Any,
) -> Row:
    """The locked job with these values; an event for each phase that it passed before, and where
    its state or phase is new or there is something to say of it."""
    state, phase = values.get("state", row.state), values.get("phase", row.phase)
    happened: list[tuple[JobState, Phase | None, float, str | None]] = [
        (*one, None) for one in passed
    ]
    if message is not None or (state, phase) != (row.state, row.phase):
        happened.append((state, phase, now, message))
    changed = connection.execute(
        _UPDATE, {"locked": row.number, "last_event": row.last_event + len(happened), **values}
    ).one()
    if happened:
        connection.execute(
            sa.insert(events),
            [
                {
                    "job_id": row.job_id,
                    "number": number,
                    "at": at,
                    "state": state,
                    "phase": phase,
                    "message": message,
                }
                for number, (state, phase, at, message) in enumerate(happened, row.last_event + 1)
            ],
        )
    return changed


def _end(
    connection: sa.Connection,
    row: Row,
    now: float,
    state: JobState,
    error: str | None,
    **values: Any,
) -> Row:
    """The locked job, ended."""
    ending: dict[str, Any] = {"state": state, "error": error, "finished_at": now}
    return _change(connection, row, now, error, **ending, **_UNLEASED, **values)


def _let_go(connection: sa.Connection, row: Row, now: float, reason: str, attempts: int) -> Row:
    """The locked, leased job queued again, or cancelled if that was asked for."""
    if row.cancel_reason is not None:
        return _end(connection, row, now, JobState.CANCELLED, row.cancel_reason)
    connection.execute(sa.delete(reports).where(reports.c.job_id == row.job_id))
    queued = {"state": JobState.QUEUED, "attempts": attempts, **_UNLEASED, **_UNBEGUN}
    return _change(connection, row, now, reason, **queued)


def _recover(connection: sa.Connection, row: Row, now: float, max_attempts: int) -> Row:
    """The locked, leased job, taken from its server."""
    reason = f"its server {row.lease_server} gave no more sign of life"
    if row.cancel_reason is None and row.attempts >= max_attempts:
        error = f"{reason}; that was the last of {max_attempts} attempts"
        return _end(connection, row, now, JobState.FAILED, error)
    return _let_go(connection, row, now, reason, row.attempts)


def _keep_report(connection: sa.Connection, job_id: str, packed: bytes) -> None:
    connection.execute(_KEEP_REPORT[connection.dialect.name], {"job_id": job_id, "content": packed})


def _with_report(connection: sa.Connection, row: Row) -> Job:
    return job_from(row, connection.scalar(_REPORT, {"id": row.job_id}))
