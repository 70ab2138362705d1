"""Addresses come apart into what they were joined of; what is none is refused and named."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.wire.addresses import is_loopback, joined_address, split_address

HOSTS: Any = st.one_of(
    st.ip_addresses().map(str), st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
)


@given(HOSTS, st.integers(0, 65535))
def test_an_address_comes_apart_into_host_and_port(host: str, port: int) -> None:
    assert split_address(joined_address(host, port)) == (host, port)


@pytest.mark.parametrize(
    "wrong",
    ["", "here", ":80", "here:", "here:x", "here:-1", "here:65536", "::1", "::1:80", "[::1]", "[here:80", "[]:80"],
)
def test_what_is_no_address_is_named_with_the_option_that_said_it(wrong: str) -> None:
    with pytest.raises(UserError, match="not an address of the form host:port"):
        split_address(wrong)
    with pytest.raises(UserError, match=f"^--via {re.escape(wrong)}:"):
        split_address(wrong, "--via")


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("lab", False)]
)
def test_hosts_that_only_this_machine_reaches_are_known(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
