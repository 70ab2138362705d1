"""What a client pins comes back as it was written, and nothing half-read ever stands in for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.trust.anchors import CERTIFICATE, FILE, Anchor, Anchors, Part, Revoked
from decentral.wire.identity import Identity

PEM = f"{CERTIFICATE}\nMIIB\n-----END CERTIFICATE-----\n".encode()
DIGEST = "ab" * 32
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


def stages(replicas: int) -> Anchors:
    """A client's stage and two of peers, with so many replicas each."""
    parts = (
        Part("stage-0", "0" * 64, "client", 0.0, 1.0),
        Part("stage-1", "1" * 64, "peers", 1e-5, 3.25, circuit="c" * 64),
        Part("stage-2", "2" * 64, "peers", 1e-30, 12.0),
    )
    peers = [
        Anchor(f"{part.name}-{letter}", Identity.from_seed(f"{part.name}{letter}".encode()).id, "h:1", *where)
        for letter in "abcdefg"[:replicas]
        for part in parts[1:]
        for where in [(part.name, part.digest)]
    ]
    return Anchors(PEM, tuple(peers), 7, parts)


@given(st.integers(0, 2**62), st.floats(0, 1), st.floats(0, allow_infinity=False), st.sampled_from(["peers", "client"]))
def test_parts_and_epoch_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, epoch: int, tolerance: float, gain: float, at: Literal["peers", "client"]
) -> None:
    written = Anchors(PEM, (), epoch + 1, (Part("stage-0", DIGEST, at, tolerance, gain),))
    file = tmp_path_factory.mktemp("trust") / FILE
    written.save(file)
    assert Anchors.load(file) == written


@settings(max_examples=15)
@given(
    st.sets(st.binary(min_size=1, max_size=4), max_size=4),
    st.integers(0, 2**62),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=200),
)
def test_who_is_revoked_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, seeds: set[bytes], since: int, reason: str
) -> None:
    gone = tuple(Revoked(Identity.from_seed(seed).id, since, reason) for seed in sorted(seeds))
    file = tmp_path_factory.mktemp("trust") / FILE
    Anchors(PEM, (), revoked=gone).save(file)
    assert Anchors.load(file).revoked == gone


@pytest.mark.parametrize(
    "said",
    ['since = "soon"', "since = -1", "since = true", "", 'since = 1\nreason = "a\\u001b[2J"', "since = 1\nby = 2"],
)
def test_a_revocation_that_is_none_is_named(tmp_path: Path, said: str) -> None:
    Anchors(PEM, ()).save(tmp_path / FILE)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(f'{text}\n[[revoked]]\nid = "{Identity.from_seed(b"a").id}"\n{said}\n')
    with pytest.raises(UserError, match=r"revoked\[0\]"):
        Anchors.load(tmp_path / FILE)


def test_the_revoked_are_asked_no_more_and_what_they_have_said_before_counts(tmp_path: Path) -> None:
    before = stages(2)
    gone = before.replicas("stage-1")[0]
    after = replace(before, revoked=(Revoked(gone.id, 100, "why"),))
    assert after.replicas("stage-1") == before.replicas("stage-1") == before.asked("stage-1")
    assert after.asked("stage-1") == before.replicas("stage-1")[1:]
    assert after.revoked_at(gone.id, 99) is None and after.revoked_at(gone.id, 100) == after.revoked[0]
    assert after.revoked_at(before.replicas("stage-1")[1].id, 100) is None


def test_the_router_by_which_experts_are_chosen_is_pinned_by_its_digest(tmp_path: Path) -> None:
    pinned = Anchors(PEM, (), 3, router=DIGEST)
    pinned.save(tmp_path / FILE)
    assert Anchors.load(tmp_path / FILE) == pinned
    for wrong in ('"ab"', "3", '"' + "AB" * 32 + '"'):
        text = f'authority = """\n{PEM.decode()}"""\nrouter = {wrong}\n'
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match="router: must be a digest"):
            Anchors.load(tmp_path / FILE)


def test_a_file_from_before_there_were_parts_still_tells_who_serves(tmp_path: Path) -> None:
    expert = Anchor("peer-0", Identity.from_seed(b"0").id, "h:1", "expert-0", DIGEST)
    fields = "\n".join(f'{key} = "{getattr(expert, key)}"' for key in ("name", "id", "address", "part", "digest"))
    file = tmp_path / FILE
    file.write_text(f"authority = '''{PEM.decode()}'''\n[[peers]]\n{fields}\n")
    assert Anchors.load(file) == Anchors(PEM, (expert,), 1, ())


@pytest.mark.parametrize("replicas", [1, 3])
def test_the_replicas_of_a_part_are_those_that_serve_it_in_the_order_of_the_file(tmp_path: Path, replicas: int) -> None:
    stages(replicas).save(tmp_path / FILE)
    found = Anchors.load(tmp_path / FILE)
    assert [part.name for part in found.parts] == ["stage-0", "stage-1", "stage-2"]
    assert [peer.name for peer in found.replicas("stage-1")] == [f"stage-1-{letter}" for letter in "abc"[:replicas]]
    assert found.replicas("stage-0") == ()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("epoch = 7", "epoch = 0", "epoch"),
        ("epoch = 7", "epoch = true", "epoch"),
        ("tolerance = 1e-05", "tolerance = 2", r"parts\[1\].tolerance"),
        ("tolerance = 1e-05", "tolerance = nan", r"parts\[1\].tolerance"),
        ("tolerance = 1e-05", "", r"parts\[1\].tolerance"),
        ("gain = 3.25", "gain = -1", r"parts\[1\].gain"),
        ("gain = 3.25", "gain = inf", r"parts\[1\].gain"),
        ("gain = 3.25", "size = 1", r"parts\[1\].size"),
        ('at = "client"', 'at = "nobody"', r"parts\[0\].at"),
        (f'digest = "{"0" * 64}"', 'digest = ""', r"parts\[0\].digest"),
        ('name = "stage-2"', 'name = "stage-1"', "two have one name"),
        ('part = "stage-1"', 'part = "stage-0"', r"peers\[0\].part"),
        ('part = "stage-1"', 'part = "stage-2"', r"peers\[0\].part"),
        ('part = "stage-1"', "", r"peers\[0\].part"),
    ],
)
def test_parts_that_cannot_be_are_named_with_their_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    file = tmp_path / FILE
    stages(1).save(file)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=problem):
        Anchors.load(file)


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
        (
            f"authority = '''{PEM.decode()}'''\n[[peers]]\nname = 'a'\nid = '{'a' * 52}'\naddress = '::1:7'",
            r"peers\[0\].address: '::1:7'",
        ),
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
