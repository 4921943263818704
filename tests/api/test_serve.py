"""Listening: what is refused before anything listens, and what the local socket knows of its peer."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from mover import metrics
from mover.api import check_socket_path, make_app, serve
from mover.errors import SettingsInvalid
from mover.settings import Listen, Tls
from tests.api.small_rooms import SmallAccess, small_rooms


def local(path: Path) -> Listen:
    return Listen(unix=path, host=None, port=None, tls=None)


def app(**access: Any) -> Any:
    return make_app(small_rooms(), SmallAccess(**access), version="0")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_local_socket_takes_its_peer_from_the_kernel(tmp_path: Path, loop: str) -> None:
    """No secret is needed on the machine itself; the kernel vouches for the user (SO_PEERCRED). Both event loops
    must be able to ask it."""
    import uvloop

    async def story() -> tuple[int, dict[str, Any]]:
        server = await serve(app(known_uid=os.getuid()), local(tmp_path / "s"))
        try:
            connector = aiohttp.UnixConnector(str(tmp_path / "s"))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get("http://localhost/v1/status") as response,
            ):
                return response.status, await response.json()
        finally:
            await server.stop()

    runner = uvloop.run if loop == "uvloop" else asyncio.run
    status, said = runner(story())
    assert (status, said["actor"], said["role"]) == (200, f"uid:{os.getuid()}", "admin")


async def test_a_stranger_on_the_local_socket_needs_a_token(tmp_path: Path) -> None:
    server = await serve(app(known_uid=os.getuid() + 1), local(tmp_path / "s"))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as session:
        async with session.get("http://localhost/v1/status") as response:
            assert response.status == 401
        headers = {"Authorization": "Bearer mvr_viewer"}
        async with session.get("http://localhost/v1/status", headers=headers) as response:
            assert response.status == 200
    await server.stop()


async def test_the_socket_is_for_owner_and_group_and_gone_after_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "run" / "mover.sock"
    server = await serve(app(), Listen(path, "127.0.0.1", 0, None))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert server.urls[1] == f"unix://{path}" and server.urls[0].startswith("http://127.0.0.1:")
    await server.stop()
    assert not path.exists()


async def test_a_socket_left_by_a_killed_daemon_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """A restart after kill -9 must just work; a second daemon must not steal the first one's callers."""
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    first = await serve(app(), local(path))
    with pytest.raises(SettingsInvalid, match="another daemon"):
        await serve(app(), local(path))
    await first.stop()


async def test_a_file_of_another_kind_at_the_sockets_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(SettingsInvalid, match="local socket"):
        await serve(app(), local(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "mine"


def test_a_long_checkout_path_is_met_by_a_hint() -> None:
    """The kernel's own answer is 'AF_UNIX path too long', from deep inside."""
    check_socket_path("/" + "x" * 106)
    with pytest.raises(SettingsInvalid) as caught:
        check_socket_path("/" + "x" * 107)
    assert "108 bytes" in caught.value.what and "shorter" in caught.value.advice


async def test_a_taken_port_is_met_by_a_hint_and_nothing_stays_open(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsInvalid) as caught:
            await serve(app(), Listen(tmp_path / "s", "127.0.0.1", taken.getsockname()[1], None))
    assert "another one, or 0" in caught.value.advice
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("listen", "what"),
    [
        (Listen(None, "0.0.0.0", 0, None), "needs TLS"),
        (Listen(None, None, None, None), "nowhere"),
        (Listen(None, "203.0.113.9", 0, Tls(Path("/none/a.pem"), Path("/none/k.pem"))), "cannot be used"),
    ],
)
async def test_half_a_configuration_is_refused(listen: Listen, what: str) -> None:
    """Tokens never cross a network in the clear."""
    with pytest.raises(SettingsInvalid, match=what):
        await serve(app(), listen)


@pytest.mark.slow
async def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    _self_signed(certificate, key)
    server = await serve(app(), Listen(None, "0.0.0.0", 0, Tls(certificate, key)))
    port = server.urls[0].rpartition(":")[2]
    assert server.urls[0].startswith("https://0.0.0.0:")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{port}/healthz", ssl=False) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{port}/healthz")
    await server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_renewed_certificate_is_shown_to_who_connects_next_and_what_is_open_goes_on(
    tmp_path: Path, loop: str
) -> None:
    """Certificates end every few weeks; a restart for each would end every long poll and every stream."""
    import uvloop

    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"

    async def shown(port: int) -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=_trusting_all())
        seen = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(seen).serial_number

    async def story() -> None:
        _self_signed(certificate, key, serial=1)
        rooms = small_rooms()
        server = await serve(
            make_app(rooms, SmallAccess(), version="0"), Listen(None, "127.0.0.1", 0, Tls(certificate, key))
        )
        port = int(server.urls[0].rpartition(":")[2])
        follower = asyncio.create_task(server.follow_certificate())
        headers = {"Authorization": "Bearer mvr_viewer"}
        async with asyncio.timeout(60), aiohttp.ClientSession(headers=headers) as session:
            poll = asyncio.create_task(session.get(f"{server.urls[0]}/v1/batches/batch-1?wait=60", ssl=False))
            await rooms.batches.asked.wait()
            assert await shown(port) == 1 and 0 < metrics.CERTIFICATE_LEFT._value.get() <= 86_400
            _self_signed(certificate, tmp_path / "of-another.pem", serial=2)  # a certificate without its key
            server._certificate.follow()  # type: ignore[union-attr]
            assert await shown(port) == 1
            _self_signed(certificate, key, serial=3)
            while await shown(port) != 3:  # noqa: ASYNC110 - it is the other side of a socket
                await asyncio.sleep(0.05)
            assert not poll.done()
            follower.cancel()
            await server.stop()
            assert (await poll).status == 200

    (uvloop.run if loop == "uvloop" else asyncio.run)(story())


def _trusting_all() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _self_signed(certificate: Path, key: Path, *, serial: int = 1) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def test_a_stop_ends_long_polls_instead_of_waiting_for_them(tmp_path: Path) -> None:
    """A restart must not hang on a scheduler that waits for `ready`."""
    rooms = small_rooms()
    server = await serve(make_app(rooms, SmallAccess(), version="0"), Listen(None, "127.0.0.1", 0, None))
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer mvr_viewer"}) as session:
        poll = asyncio.create_task(session.get(server.urls[0] + "/v1/batches/batch-1?wait=60"))
        async with asyncio.timeout(50):
            await rooms.batches.asked.wait()
            await server.stop()
            response = await poll
        assert response.status == 200
