"""What a receipt says is found again by everybody who trusts its cluster; no bit of it can be changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import decentral
from decentral import canonical
from decentral.errors import Malformed, Refusal, UserError
from decentral.trust.anchors import FILE
from decentral.trust.consensus import Tensors
from decentral.trust.evidence import Fault, FaultKind, Finding, Kind, tensors_digest
from decentral.trust.examination import Case, Verifiers, examine
from decentral.trust.policy import Policy, Verdict
from decentral.trust.receipt import Receipt, Transcript, check, verify
from tests.trust.world import World

QUORUM_3_OF_4 = Policy(replicas=4, quorum=3, faulty=1)
ALONE = Policy(replicas=1, quorum=1, faulty=0)
HONEST: dict[str, tuple[World, dict[tuple[str, int], str]]] = {
    "nobody is faulty": (World(), {}),
    "machines round": (World(rounding=True), {}),
    "one lies": (World(rounding=True), {("stage-1", 2): "lies"}),
    "the one that serves lies": (World(), {("stage-0", 0): "lies", ("stage-2", 0): "lies"}),
    "one withholds": (World(), {("stage-1", 0): "withholds"}),
    "one sends something else": (World(), {("stage-1", 0): "breaks", ("stage-2", 1): "breaks"}),
    "one sends something else, and machines round": (World(rounding=True), {("stage-1", 1): "breaks"}),
    "one keeps its answer": (World(rounding=True), {("stage-1", 1): "keeps"}),
    "one copies": (World(), {("stage-1", 1): "copies"}),
    "one is replaced": (World(replicas=5), {("stage-0", 0): "silent", ("stage-1", 1): "silent"}),
    "k = 4": (World(replicas=4, policy=QUORUM_3_OF_4), {("stage-1", 3): "lies"}),
    "k = 1": (World(replicas=2, policy=ALONE), {}),
    "two tensors cross, and the client begins": (World(pair=True, local=1), {("stage-2", 1): "lies"}),
    "one part": (World(parts=1), {}),
}
SMALL = World(parts=1)
RICH = World(replicas=5, rounding=True)
RICH_ACTS = {("stage-0", 1): "silent", ("stage-1", 2): "lies"}


@pytest.fixture(params=HONEST.values(), ids=HONEST.keys(), scope="module")
def honest(request: pytest.FixtureRequest) -> tuple[World, Receipt]:
    world, acts = request.param
    return world, world.receipt(acts)


# Honest


def test_an_honest_receipt_is_valid_to_whom_trusts_its_cluster(honest: tuple[World, Receipt], tmp_path: Path) -> None:
    world, receipt = honest
    world.anchors.save(tmp_path / FILE)
    receipt.save(tmp_path / "receipt.json")
    for given_ in (receipt, receipt.encode(), tmp_path / "receipt.json"):
        for trust in (world.anchors, tmp_path / FILE):
            verdict = decentral.verify(given_, trust, world.policy)
            assert verdict.valid
            assert verdict.reasons == ()
            assert verdict.findings == receipt.findings


def test_what_is_read_says_what_was_written(honest: tuple[World, Receipt]) -> None:
    world, receipt = honest
    read = Receipt.decode(receipt.encode())
    assert read.encode() == receipt.encode()
    assert read.transcript.order == receipt.transcript.order
    written, found = (check(each, world.anchors, world.policy) for each in (receipt, read))
    assert found.findings == written.findings
    assert found.faults == written.faults
    assert found.output is not None
    assert written.output is not None
    assert tensors_digest(found.output) == tensors_digest(written.output)


def test_tensors_that_no_verifier_needs_are_not_in_it() -> None:
    """Of what crosses between parts, and of the inputs above all, only the digests."""
    kept = Receipt.decode(World().receipt().encode()).transcript
    assert kept.inputs is None
    assert [all(r.tensors is None for r in each.replies.values()) for each in kept.exchanges] == [True, True, False]
    disputed = Receipt.decode(World().receipt({("stage-1", 1): "lies"}).encode()).transcript
    assert [any(r.tensors is None for r in each.replies.values()) for each in disputed.exchanges] == [False] * 3
    assert disputed.inputs is None
    first = Receipt.decode(World().receipt({("stage-0", 1): "lies"}).encode()).transcript
    assert first.inputs is not None, "to compute the first part again"
    without = replace(World().transcript({("stage-0", 1): "lies"}), inputs=None)
    assert Receipt.decode(World().signed(without).encode()).transcript.inputs is None


def test_an_answer_that_did_not_come_has_a_receipt_too() -> None:
    world = World()
    for acts in ({("stage-1", 0): "lies", ("stage-1", 1): "withholds"}, {("stage-0", i): "silent" for i in range(3)}):
        receipt = Receipt.decode(world.receipt(acts).encode())
        found = check(receipt, world.anchors, world.policy)
        assert not found.verdict.valid
        assert found.verdict == receipt.verdict, "as the client says"
        assert found.faults != ()


# Changed by anybody


def flipped(data: bytes, bits: Iterator[int]) -> Iterator[tuple[int, bytes]]:
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)


def nothing_is_valid(world: World, changed: Iterator[tuple[int, bytes]]) -> int:
    """How many could be read, and are not valid."""
    read = 0
    for bit, data in changed:
        try:
            verdict = verify(data, world.anchors, world.policy)
        except Malformed:
            continue
        assert not verdict.valid, f"bit {bit}"
        read += 1
    return read


@pytest.mark.parametrize(("world", "acts", "step"), [(SMALL, {}, 31), (RICH, RICH_ACTS, 149)], ids=["small", "rich"])
def test_no_bit_can_be_changed(world: World, acts: dict[tuple[str, int], str], step: int) -> None:
    data = world.receipt(acts).encode()
    assert nothing_is_valid(world, flipped(data, iter(range(0, 8 * len(data), step)))) > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_bit_of_the_whole_file_can_be_changed() -> None:
    data = SMALL.receipt().encode()
    assert nothing_is_valid(SMALL, flipped(data, iter(range(8 * len(data))))) > 1000


def test_what_is_no_receipt_is_refused(tmp_path: Path) -> None:
    whole = SMALL.receipt().encode()
    plain = canonical.decode(whole)
    spaced = whole.replace(b":", b": ", 1)
    for data in (b"", b"{}", b"null", b"[]", b"1", b"\xff", b"[" * 100_000, whole[:-1], whole + b"\n", spaced,
                 whole.decode().encode("utf-16")):  # fmt: skip
        with pytest.raises(Malformed):
            Receipt.decode(data)
    for key in plain:
        without = {other: value for other, value in plain.items() if other != key}
        for changed in (without, *({**plain, key: value} for value in (None, 1, "x", [], {}, [[]], {"x": {}}))):
            if changed == plain:
                continue
            try:
                receipt = Receipt.decode(canonical.encode(changed))
            except Malformed:
                continue
            assert not verify(receipt, SMALL.anchors).valid
    (tmp_path / "receipt").write_bytes(b"{}")
    for file in (tmp_path / "receipt", tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=str(file)):
            verify(file, SMALL.anchors)
    with pytest.raises(UserError, match="absent"):
        verify(whole, tmp_path / "absent")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("exchanges", 0, "asked", 0, "peer"), "nobody"),
        (("exchanges", 0, "asked", 0, "peer"), None),
        (("exchanges", 0, "asked", 0, "reveal"), {}),
        (("exchanges", 0, "asked", 0, "reveal"), 0),
        (("exchanges", 0, "asked", 0, "commitment"), ""),
        (("exchanges", 0, "asked", 0, "sent"), ""),
        (("exchanges", 0, "asked", 0, "sent"), "00" * 32),
        (("exchanges", 0, "asked", 0, "more"), 1),
        (("exchanges", 0, "evidence"), {"magic": "AAAA"}),
        (("exchanges", 0, "evidence"), {"zk": "?"}),
        (("exchanges", 0, "inputs"), "00"),
        (("exchanges", 0, "asked"), {}),
        (("tensors", "00" * 32), {"tensors": [], "data": ""}),
        (("verdict", "valid"), 1),
        (("verdict", "reasons"), ""),
        (("findings", 0, "measured"), 1),
        (("findings", 0, "passed"), "yes"),
        (("findings", 0, "kind"), "magic"),
        (("findings", 0, "part"), 0),
        (("format",), "decentral receipt v2"),
    ],
)
def test_a_field_of_another_form_is_refused(path: tuple[Any, ...], value: object) -> None:
    plain = canonical.decode(SMALL.receipt().encode())
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(Malformed):
        Receipt.decode(canonical.encode(plain))


def test_what_is_larger_than_a_receipt_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    receipt = SMALL.receipt()
    receipt.save(tmp_path / "receipt")
    data = receipt.encode()
    monkeypatch.setattr("decentral.trust.packing.MOST_BYTES", 100)
    with pytest.raises(Malformed):
        Receipt.decode(data)
    with pytest.raises(UserError):
        Receipt.load(tmp_path / "receipt")


def test_no_receipt_is_written_that_nobody_would_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    receipt = SMALL.receipt()
    monkeypatch.setattr("decentral.trust.packing.MOST_BYTES", len(receipt.encode()))
    receipt.save(tmp_path / "receipt")
    monkeypatch.setattr("decentral.trust.packing.MOST_BYTES", len(receipt.encode()) - 1)
    with pytest.raises(UserError, match="fewer inputs"):
        receipt.save(tmp_path / "larger")
    assert not (tmp_path / "larger").exists()


# The model, and other evidence


def computed(world: World, said: Transcript) -> dict[str, Tensors]:
    """The second part, by one who has the model."""
    with torch.no_grad():
        return {"stage-1": world.stages["stage-1"].run(said.given(1))}


def lies_found(world: World, receipt: Receipt) -> tuple[Verdict, tuple[Fault, ...]]:
    found = check(receipt, world.anchors, Policy(), computed(world, receipt.transcript))
    return found.verdict, found.faults


def test_who_has_the_model_tells_who_has_lied() -> None:
    world = World()
    line = world.order.line(world.order.steps[1])
    receipt = Receipt.decode(world.receipt({("stage-1", 0): "lies"}).encode())
    assert [f.kind for f in check(receipt, world.anchors, Policy()).faults] == [FaultKind.DISAGREED]
    verdict, faults = lies_found(world, receipt)
    assert verdict.valid
    assert [(fault.node, fault.kind) for fault in faults] == [(line[0], FaultKind.LIED)]
    assert faults[0].proof[0].signer() == line[0]


def test_a_quorum_of_liars_is_valid_until_somebody_has_the_model() -> None:
    world = World()
    receipt = Receipt.decode(world.receipt({("stage-1", 0): "conspires", ("stage-1", 2): "conspires"}).encode())
    assert verify(receipt, world.anchors).valid
    verdict, faults = lies_found(world, receipt)
    assert not verdict.valid
    assert [fault.kind for fault in faults] == [FaultKind.LIED] * 2


def test_what_a_client_found_that_has_the_model_is_found_again_by_who_has_it_not() -> None:
    world = World()
    for liars, valid in ((("lies", "honest"), True), (("conspires", "conspires"), False)):
        said = world.transcript({("stage-1", place): act for place, act in enumerate(liars)})
        found = examine(said, world.anchors, Policy(), computed(world, said))
        assert found.verdict.valid == valid
        receipt = Receipt.decode(Receipt.signed(said, found, world.client).encode())
        assert verify(receipt, world.anchors).valid == valid
        assert lies_found(world, receipt)[0].valid == valid


def attested(evidence: bytes, case: Case) -> Finding:
    """A kind of evidence that fits an answer: its digest."""
    if len(evidence) != 32:
        raise Malformed(Refusal.MALFORMED, "is no digest")
    fits = case.answer is not None and evidence == case.answer.signed.claim.output
    return Finding(Kind.ATTESTATION, case.question.part, fits, "is the answer" if fits else "is another answer")


def test_other_evidence_counts_if_somebody_here_can_check_it() -> None:
    wanted = Policy(require=frozenset({Kind.CONSENSUS, Kind.ATTESTATION}))
    world, verifiers = World(policy=wanted), {Kind.ATTESTATION: attested}
    plain = world.transcript(content=Policy())
    digests = [next(iter(each.replies.values())).reveal.output for each in plain.exchanges]

    def with_evidence(*evidence: dict[Kind, bytes]) -> Transcript:
        exchanges = (replace(each, evidence=one) for each, one in zip(plain.exchanges, evidence, strict=True))
        return replace(plain, exchanges=tuple(exchanges))

    def judged(said: Transcript, here: Verifiers = verifiers) -> Verdict:
        found = examine(said, world.anchors, wanted, verifiers=here)
        receipt = Receipt.decode(Receipt.signed(said, found, world.client).encode())
        return check(receipt, world.anchors, wanted, verifiers=here).verdict

    right = [{Kind.ATTESTATION: digest} for digest in digests]
    assert judged(with_evidence(*right)).valid
    assert not judged(with_evidence(*right), {}).valid
    assert not judged(with_evidence({}, *right[1:])).valid, "evidence removed"
    assert not judged(with_evidence(*right[::-1])).valid, "of another part"
    assert not judged(with_evidence({Kind.ATTESTATION: b"?"}, *right[1:])).valid
    assert not judged(with_evidence({**right[0], Kind.ZK: b""}, *right[1:])).valid, "one kind too many"

    def stray(evidence: bytes, case: Case) -> Finding:
        return replace(attested(evidence, case), part="stage-9")

    assert not judged(with_evidence(*right), {Kind.ATTESTATION: stray}).valid
