"""What a client pins comes back as it was written, and nothing half-read ever stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.trust.anchors import CERTIFICATE, Anchor, Anchors
from decentral.wire.identity import Identity

PEM = f"{CERTIFICATE}\nMIIB\n-----END CERTIFICATE-----\n".encode()
NAMES = st.text("abcdefgh0123456789-", min_size=1, max_size=12)


@given(st.lists(NAMES, unique=True, max_size=5), st.sampled_from(["", "ab" * 32]))
def test_anchors_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], digest: str
) -> None:
    peers = tuple(
        Anchor(name, Identity.from_seed(name.encode()).id, f"127.0.0.1:{7000 + place}", f"expert-{place}", digest)
        for place, name in enumerate(names)
    )
    file = tmp_path_factory.mktemp("trust") / "trust.toml"
    Anchors(PEM, peers).save(file)
    assert Anchors.load(file) == Anchors(PEM, peers)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("", "authority"),
        ("authority = 3", "authority"),
        ("authority = ''", "authority"),
        ("= nonsense", "no trust file"),
        (f"authority = '''{PEM.decode()}'''\nroots = []", "roots"),
        (f"authority = '''{PEM.decode()}'''\npeers = 3", "peers"),
        (f"authority = '''{PEM.decode()}'''\n[[peers]]\nname = 'a'\nid = 'short'\naddress = 'h:1'", r"peers\[0\].id"),
        (f"authority = '''{PEM.decode()}'''\n[[peers]]\nname = 'a'\nkey = 'b'", r"peers\[0\].key"),
    ],
)
def test_a_file_that_is_none_is_named_with_its_key(tmp_path: Path, content: str, key: str) -> None:
    file = tmp_path / "trust.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=key):
        Anchors.load(file)


def test_two_peers_of_one_identity_are_refused(tmp_path: Path) -> None:
    who = Identity.from_seed(b"one").id
    file = tmp_path / "trust.toml"
    Anchors(PEM, (Anchor("a", who, "h:1"), Anchor("b", who, "h:2"))).save(file)
    with pytest.raises(UserError, match="one id"):
        Anchors.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        Anchors.load(tmp_path / "absent.toml")
