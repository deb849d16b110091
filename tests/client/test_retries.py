"""When a request is sent again, and how much later."""

from __future__ import annotations

import httpx
import pytest

from kerneljudge.client.retries import Retries

pytestmark = pytest.mark.unit

LOST = httpx.ReadError("connection reset")


def response(status_code: int, **headers: str) -> httpx.Response:
    return httpx.Response(
        status_code, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_the_pauses_double_up_to_a_bound_and_then_end() -> None:
    retries = Retries(attempts=6, first=1, longest=8, draw=lambda: 1.0)
    delays = [retries.delay(failures, LOST) for failures in range(1, 8)]
    assert delays == [1, 2, 4, 8, 8, 8, None]


def test_clients_spread_over_the_later_half_of_a_pause() -> None:
    drawn = [
        Retries(first=4, draw=lambda share=share: share).delay(1, LOST) for share in (0.0, 1.0)
    ]
    assert drawn == [2, 4]


def test_what_the_server_asks_for_is_waited_at_least() -> None:
    retries = Retries(first=0.5, longest=10, draw=lambda: 0.0)
    assert retries.delay(1, response(429, retry_after="30")) == 30.25
    assert retries.delay(1, response(429, retry_after="in a moment")) == 0.25


@pytest.mark.parametrize("seconds", ["3601", "9" * 400])
def test_nobody_waits_for_a_server_that_asks_for_ages(seconds: str) -> None:
    assert Retries().delay(1, response(429, retry_after=seconds)) is None


@pytest.mark.parametrize("status_code", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(status_code: int) -> None:
    assert Retries().delay(1, response(status_code)) is not None


@pytest.mark.parametrize("status_code", [200, 400, 401, 403, 404, 409, 413, 500])
def test_what_stays_is_not_tried_again(status_code: int) -> None:
    assert Retries().delay(1, response(status_code)) is None


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("silent"),
        httpx.RemoteProtocolError("cut off"),
    ],
)
def test_a_lost_connection_is_tried_again(error: httpx.TransportError) -> None:
    assert Retries().delay(1, error) is not None


def test_a_url_of_no_known_kind_is_not_tried_again() -> None:
    assert Retries().delay(1, httpx.UnsupportedProtocol("ftp")) is None
