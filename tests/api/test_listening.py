"""Where a server listens: on loopback without keys, by TLS with a certificate; its first key."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from memory_keys import api_key
from scripted import ScriptedEvaluator

from kerneljudge.api import server
from kerneljudge.service import ServiceError, Settings, SqlStore

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SECRET = "0123456789abcdef0123456789abcdef"


class ScriptedFleet(ScriptedEvaluator):
    """Devices that start at once."""

    def __init__(self, _: Settings) -> None:
        super().__init__()

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""


@asynccontextmanager
async def served(
    monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: object
) -> AsyncIterator[str]:
    """A whole server but for its devices: the URL that it says."""
    monkeypatch.setattr(server, "Fleet", ScriptedFleet)
    chosen = Settings.model_validate(
        {"port": 0, "database": f"sqlite:///{folder}/jobs.db", "shutdown_grace": 0, **settings}
    )
    stop = asyncio.Event()
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(server.run_server(chosen, stop, said.set_result))
    await asyncio.wait({running, said}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not said.done():
            await running
        yield await said
    finally:
        stop.set()
        await running


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", key, "-out", made),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


async def test_without_a_key_a_server_listens_on_loopback_alone_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with served(monkeypatch, tmp_path, host="0.0.0.0") as url:
            assert url.startswith("http://127.0.0.1:")
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{url}/jobs")).status_code == 200
    (told,) = [record.getMessage() for record in caplog.records if "API key" in record.message]
    assert "listens on 127.0.0.1 alone and not on 0.0.0.0" in told
    assert "kerneljudge keys create" in told


async def test_a_disabled_key_does_not_open_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = await SqlStore.open(f"sqlite:///{tmp_path}/jobs.db", serving=False)
    await store.add_key(api_key("gone", disabled_at=2.0))
    await store.close()
    async with served(monkeypatch, tmp_path, host="0.0.0.0") as url:
        assert url.startswith("http://127.0.0.1:")


async def test_the_secret_in_a_file_is_the_first_key_and_opens_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "admin-key"
    path.write_text(SECRET)
    path.chmod(0o600)
    with caplog.at_level(logging.DEBUG):
        async with (
            served(monkeypatch, tmp_path, host="0.0.0.0", admin_key_file=path) as url,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            assert url.startswith("http://0.0.0.0:")
            cleanup = f"{url}/admin/cleanup-jobs"
            assert (await client.post(cleanup)).status_code == 401
            mine = {"Authorization": f"Bearer {SECRET}"}
            assert (await client.post(cleanup, headers=mine)).status_code == 200
    assert SECRET not in caplog.text


async def test_a_file_without_a_secret_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "admin-key"
    path.write_text("changeme")
    with pytest.raises(ServiceError, match="at least 32 characters"):
        async with served(monkeypatch, tmp_path, admin_key_file=path):
            pass


async def test_with_a_certificate_a_server_speaks_https_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, key = certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(made))
    async with served(monkeypatch, tmp_path, tls_certificate=made, tls_key=key) as url:
        assert url.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            assert (await client.get(f"{url}/health/live")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"{url}/health/live")
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"{url}/health/live".replace("https", "http"))


async def test_a_certificate_with_anothers_key_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, _ = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, key = certificate(tmp_path / "other")
    with pytest.raises(OSError, match="TLS cannot use the certificate"):
        async with served(monkeypatch, tmp_path, tls_certificate=made, tls_key=key):
            pass
