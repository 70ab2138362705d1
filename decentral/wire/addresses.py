"""Addresses as people write them: `host:port`, `[v6]:port`."""

from __future__ import annotations

import ipaddress

from decentral.errors import UserError


def split_address(address: str, option: str = "") -> tuple[str, int]:
    """`host:port` or `[v6]:port`; `option` is what said it. Raises UserError."""
    given, _, port = address.rpartition(":")
    host = given.removeprefix("[").removesuffix("]")
    if not host or given != _bracketed(host) or not port.isdecimal() or int(port) > 65535:
        said = f"{option} {address}:" if option else repr(address)
        raise UserError(f"{said} is not an address of the form host:port")
    return host, int(port)


def joined_address(host: str, port: int) -> str:
    """`host:port` or `[v6]:port`."""
    return f"{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
