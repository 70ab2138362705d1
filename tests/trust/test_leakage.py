"""`leakage.json`, and what a policy makes of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from decentral import canonical
from decentral.errors import UserError
from decentral.trust.anchors import Part
from decentral.trust.evidence import Finding, Kind
from decentral.trust.leakage import FILE, Exposure, Measurement, check_leakage, findings, stated
from decentral.trust.policy import Policy
from decentral.trust.receipt import verify
from tests.trust.world import World


def exposure(part: str, correlation: float) -> Exposure:
    return Exposure(part, correlation, 11.0, 0.8, 11.5, 0.1, 0.5)


def part(name: str, at: str = "peers", digest: str = "ab" * 32) -> Part:
    return Part(name, digest, "client" if at == "client" else "peers", 1e-4, 2.0)


PARTS = [part("stage-0", "client"), part("stage-1"), part("stage-2", digest="cd" * 32)]
MEASURED = Measurement(
    exposures=(exposure("stage-0", 1.0), exposure("stage-1", 0.6), exposure("stage-2", 0.4)),
    digests={each.name: each.digest for each in PARTS},
    noise="",
    accuracy=0.9,
    own=1000,
    others=300,
    seed=0,
)


def test_what_was_measured_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Measurement.load(tmp_path) is None
    assert MEASURED.save(tmp_path) == tmp_path / FILE
    assert Measurement.load(tmp_path) == MEASURED


def test_a_cut_within_the_policy_is_taken_and_one_beyond_it_is_not(tmp_path: Path) -> None:
    MEASURED.save(tmp_path)
    assert check_leakage(tmp_path, PARTS, Policy(leakage=0.6)) == MEASURED
    with pytest.raises(UserError, match=r"for stage-1 tells 0\.600.*allows 0\.59"):
        check_leakage(tmp_path, PARTS, Policy(leakage=0.59))


def test_the_clients_own_parts_tell_nobody_and_every_other_counts(tmp_path: Path) -> None:
    MEASURED.save(tmp_path)
    with pytest.raises(UserError, match="stage-0"):
        check_leakage(tmp_path, [part("stage-0"), *PARTS[1:]], Policy(leakage=0.9))
    late = replace(MEASURED, exposures=(*MEASURED.exposures[:2], exposure("stage-2", 0.7)))
    late.save(tmp_path)
    with pytest.raises(UserError, match="stage-2"):
        check_leakage(tmp_path, PARTS, Policy(leakage=0.65))


@pytest.mark.parametrize("psnr", [math.nan, math.inf, -1e9])
def test_decibels_that_cannot_be_are_not_believed(tmp_path: Path, psnr: float) -> None:
    MEASURED.save(tmp_path)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"psnr": 11.0', f'"psnr": {json.dumps(psnr)}'))
    with pytest.raises(UserError, match="a number that cannot be"):
        check_leakage(tmp_path, PARTS, Policy(leakage=1.0))


def test_what_an_attacker_made_again_counts_where_it_is_more(tmp_path: Path) -> None:
    """A network trained to lower the correlation lowers it faster than what can be made again."""
    assert exposure("stage-1", 0.3).leakage == 0.3
    made = replace(exposure("stage-1", 0.3), psnr=21.5)
    assert made.leakage == made.reconstructed == pytest.approx(0.9)
    replace(MEASURED, exposures=(MEASURED.exposures[0], made, MEASURED.exposures[2])).save(tmp_path)
    with pytest.raises(UserError, match=r"for stage-1 tells 0\.900"):
        check_leakage(tmp_path, PARTS, Policy(leakage=0.6))


def test_a_policy_that_does_not_ask_needs_no_measurement(tmp_path: Path) -> None:
    assert check_leakage(tmp_path, PARTS, Policy()) is None


def test_missing_evidence_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nobody has measured.*decentral leakage"):
        check_leakage(tmp_path, PARTS, Policy(leakage=1.0))


def test_what_was_measured_of_other_parts_or_other_noise_counts_for_nothing(tmp_path: Path) -> None:
    MEASURED.save(tmp_path)
    other = [PARTS[0], PARTS[1], part("stage-2", digest="ee" * 32)]
    for parts, noise in ((other, ""), (PARTS[:2], ""), (PARTS[::-1], ""), (PARTS, "gaussian noise: epsilon 1")):
        with pytest.raises(UserError, match="other parts, or other noise"):
            check_leakage(tmp_path, parts, Policy(leakage=1.0), noise)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({"version": 2}),
        json.dumps({"version": 1, "exposures": [], "digests": {"stage-0": "ab"}}),
        json.dumps({"version": 1, "exposures": [{"part": "stage-0"}], "digests": {"stage-0": "ab"}}),
    ],
)
def test_a_damaged_file_is_named_and_never_believed(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"leakage\.json: is no measurement"):
        check_leakage(tmp_path, PARTS, Policy(leakage=1.0))


def test_a_correlation_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    replace(MEASURED, exposures=(*MEASURED.exposures[:2], exposure("stage-2", -5.0))).save(tmp_path)
    with pytest.raises(UserError, match=r"a correlation of -5\.0"):
        Measurement.load(tmp_path)


def test_a_policy_finds_its_evidence_for_every_part() -> None:
    found = findings(MEASURED, PARTS)
    assert [(each.kind, each.part, each.measured) for each in found] == [
        (Kind.LEAKAGE, "stage-0", 0.0),
        (Kind.LEAKAGE, "stage-1", 0.6),
        (Kind.LEAKAGE, "stage-2", 0.4),
    ]
    names = [each.name for each in PARTS]
    others = [
        Finding(kind, name, True, "", 2.0)
        for kind in (Kind.MODEL, Kind.LINK, Kind.FRESH, Kind.CONSENSUS)
        for name in names
    ]
    assert Policy(leakage=0.6).judge(b"\0" * 32, names, [*others, *found]).valid
    strict = Policy(leakage=0.5).judge(b"\0" * 32, names, [*others, *found])
    assert strict.reasons == ("stage-1: leakage: more than 0.5 leaks",)


def test_the_check_needs_no_torch() -> None:
    code = "import sys, decentral.trust.leakage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# In receipts


def measured_of(world: World, correlation: float = 0.4) -> Measurement:
    digests = {each.name: each.digest for each in world.anchors.parts}
    return replace(MEASURED, exposures=tuple(exposure(name, correlation) for name in digests), digests=digests)


def valid(world: World, evidence: Callable[[str], bytes | None]) -> bool:
    """With this evidence for each part, in a receipt; the client's policy is the world's, and so is the verifier's."""
    said = world.transcript(content=Policy())
    exchanges = []
    for each in said.exchanges:
        told = evidence(each.step.part)
        exchanges.append(replace(each, evidence={} if told is None else {Kind.LEAKAGE: told}))
    receipt = world.signed(replace(said, exchanges=tuple(exchanges)))
    return verify(receipt.encode(), world.anchors, world.policy).valid


def test_what_a_client_states_in_a_receipt_is_bounded_by_the_verifiers_policy() -> None:
    for bound, accepted in ((0.4, True), (0.39, False)):
        world = World(local=1, policy=Policy(leakage=bound))
        assert valid(world, lambda part, world=world: stated(measured_of(world), part)) == accepted
    assert not valid(World(policy=Policy(leakage=1.0)), lambda part: None), "nobody has measured"
    assert valid(World(), lambda part: stated(measured_of(World(), 1.0), part)), "nobody asks"
    with pytest.raises(KeyError):
        stated(MEASURED, "stage-9")


def test_what_was_measured_of_other_parts_or_is_no_measurement_has_failed() -> None:
    world = World(policy=Policy(leakage=0.5))
    right = stated(measured_of(world), "stage-1")
    assert valid(world, lambda part: right)
    plain = canonical.decode(right)
    for wrong in (
        b"",
        right + b" ",
        stated(MEASURED, "stage-1"),
        stated(measured_of(World(parts=2)), "stage-1"),
        *(
            canonical.encode({**plain, **change})
            for change in (
                {"leakage": None}, {"leakage": 0}, {"leakage": -0.1}, {"leakage": 1.1},
                {"leakage": True}, {"noise": 1}, {"digests": None}, {"more": 1},
                {"digests": plain["digests"][::-1]},
            )
        ),
        *(canonical.encode({k: v for k, v in plain.items() if k != key}) for key in plain),
        canonical.encode([]),
    ):  # fmt: skip
        assert not valid(world, lambda part, wrong=wrong: wrong), wrong
