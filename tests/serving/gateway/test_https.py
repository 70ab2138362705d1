"""Who has no token is not let in; the certificate that a gateway makes is good in TLS, for its host alone."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import assume, given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.serving.gateway import https
from decentral.serving.gateway.https import PRIVATE, PUBLIC, TOKEN, Chain, admitted, open_chain, open_token


def test_a_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    token = open_token(tmp_path)
    assert open_token(tmp_path) == token
    assert len(token) >= 32
    assert (tmp_path / TOKEN).stat().st_mode & 0o077 == 0
    (tmp_path / "other").mkdir()
    assert open_token(tmp_path / "other") != token


def test_a_token_that_others_can_read_or_guess_is_refused(tmp_path: Path) -> None:
    open_token(tmp_path)
    (tmp_path / TOKEN).chmod(0o644)
    with pytest.raises(UserError, match="other users can read"):
        open_token(tmp_path)
    (tmp_path / TOKEN).chmod(0o600)
    for content in (b"", b"secret", b"\xff" * 40, b"x" * 300):
        (tmp_path / TOKEN).write_bytes(content)
        with pytest.raises(UserError, match="is no token"):
            open_token(tmp_path)


@given(st.text(max_size=60), st.text("abcdefghABCDEFGH0123_-", min_size=32, max_size=40))
def test_only_the_token_itself_lets_in(header: str, token: str) -> None:
    assume(header.strip() != token)
    assert admitted(f"Bearer {token}", token)
    assert admitted(f"bearer  {token} ", token)
    for wrong in (header, f"Bearer {header}", f"Bearer {token}x", f"Bearer {token[:-1]}", token, f"Basic {token}", ""):
        assert not admitted(wrong, token)


async def shaken(chain: Chain, trusted: Path, name: str) -> None:
    """A handshake with a server that shows the chain, by a client that trusts this and asks for that name."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(chain.certificate, chain.key)
    client_side = ssl.create_default_context(cafile=str(trusted))
    serving = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_side)
    async with serving, asyncio.timeout(10):
        port = serving.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname=name)
        writer.close()


async def test_our_certificate_is_good_for_its_names_and_no_others(tmp_path: Path) -> None:
    chain = open_chain(tmp_path, "gateway.example")
    assert chain.shown == tmp_path / PUBLIC
    assert b"PRIVATE" not in chain.shown.read_bytes()
    assert (tmp_path / PRIVATE).stat().st_mode & 0o077 == 0
    for name in ("gateway.example", "localhost", "127.0.0.1", "::1"):
        await shaken(chain, chain.shown, name)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
        await shaken(chain, chain.shown, "other.example")
    (tmp_path / "stranger").mkdir()
    stranger = open_chain(tmp_path / "stranger", "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        await shaken(stranger, chain.shown, "localhost")


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


def test_our_certificate_stays_until_it_ends_or_another_host_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = serial(open_chain(tmp_path, "127.0.0.1").certificate)
    assert serial(open_chain(tmp_path, "localhost").certificate) == made
    other = serial(open_chain(tmp_path, "192.0.2.7").certificate)
    assert other != made
    assert serial(open_chain(tmp_path, "127.0.0.1").certificate) == other
    monkeypatch.setattr(https, "RENEWED", timedelta(days=400))
    assert serial(open_chain(tmp_path, "127.0.0.1").certificate) != other
    (tmp_path / PRIVATE).write_bytes(b"damaged")
    monkeypatch.undo()
    assert serial(open_chain(tmp_path, "127.0.0.1").certificate) not in (made, other)


async def test_a_certificate_that_was_given_is_shown_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    given_ = open_chain(tmp_path / "given", "localhost")
    chain = open_chain(tmp_path, "localhost", given_.certificate, given_.key)
    assert chain.shown is None
    assert not (tmp_path / PRIVATE).exists()
    await shaken(chain, tmp_path / "given" / PUBLIC, "localhost")


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    one, other = open_chain(tmp_path / "one", "localhost"), open_chain(tmp_path / "other", "localhost")
    for certificate, key in ((one.certificate, None), (None, one.key)):
        with pytest.raises(UserError, match="come together"):
            open_chain(tmp_path, "localhost", certificate, key)
    for certificate, key in (
        (tmp_path / "one" / PUBLIC, other.key),
        (tmp_path / "absent", one.key),
        (one.certificate, tmp_path / "one" / PUBLIC),
    ):
        with pytest.raises(UserError, match="is no certificate with the key"):
            open_chain(tmp_path, "localhost", certificate, key)
