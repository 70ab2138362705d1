"""What is not there counts against an answer; what a policy cannot say is refused with key, file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.trust.evidence import Finding, Kind
from decentral.trust.policy import Policy

NONCE = bytes(32)
PARTS = ["stage-1", "stage-2", "stage-3"]
STRICT = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK, Kind.ATTESTATION}), leakage=0.5)
MEASURED = {Kind.CONSENSUS: 2.0, Kind.LEAKAGE: 0.4}


def evidence(parts: list[str] = PARTS, kinds: Any = Kind) -> list[Finding]:
    return [Finding(kind, part, True, "fine", MEASURED.get(kind)) for part in parts for kind in kinds]


def test_all_that_is_needed_is_enough() -> None:
    assert STRICT.judge(NONCE, PARTS, evidence()) == STRICT.judge(NONCE, PARTS, evidence()[::-1])
    assert STRICT.judge(NONCE, PARTS, evidence()).valid
    plain = [Kind.MODEL, Kind.LINK, Kind.FRESH, Kind.CONSENSUS]
    assert Policy().judge(NONCE, PARTS, evidence(kinds=plain)).valid


@given(st.integers(0, len(PARTS) * len(Kind) - 1))
def test_a_finding_that_is_missing_or_has_failed_is_a_failure(place: int) -> None:
    given_ = evidence()
    lacking = given_[place]
    missing = STRICT.judge(NONCE, PARTS, [*given_[:place], *given_[place + 1 :]])
    assert not missing.valid
    assert missing.reasons == (f"{lacking.part}: {lacking.kind.value}: there is no evidence that passed",)
    failed = STRICT.judge(NONCE, PARTS, [*given_, replace(lacking, passed=False, detail="is wrong")])
    assert failed.reasons == (f"{lacking.part}: {lacking.kind.value}: is wrong",), "others that passed do not heal it"


def test_parts_that_were_not_asked_are_named_once_with_the_part_that_failed() -> None:
    first = evidence(PARTS[:1], (Kind.MODEL, Kind.LINK, Kind.FRESH))
    silent = Finding(Kind.CONSENSUS, PARTS[0], False, "nobody has answered", 0.0)
    verdict = Policy().judge(NONCE, PARTS, [*first, silent])
    rest = ", ".join(PARTS[1:])
    assert verdict.reasons == (
        f"{PARTS[0]}: consensus: nobody has answered",
        f"{rest}: {'was' if len(PARTS) == 2 else 'were'} not asked: {PARTS[0]} failed",
    )
    kept = Policy().judge(NONCE, PARTS, evidence(PARTS[:-1]))
    assert kept.reasons == (f"{PARTS[-1]}: was not asked",), (
        "whoever leaves a part out of a receipt has no failure to name"
    )


@given(st.sets(st.sampled_from(evidence()), max_size=8))
def test_less_evidence_never_makes_an_answer_valid(left_out: set[Finding]) -> None:
    for policy in (STRICT, Policy()):
        found = [each for each in evidence() if each not in left_out]
        needed = {Kind.MODEL, Kind.LINK, Kind.FRESH, *policy.require} | ({Kind.LEAKAGE} if policy.leakage else set())
        assert policy.judge(NONCE, PARTS, found).valid == (not needed & {each.kind for each in left_out})


def test_nothing_at_all_is_a_failure() -> None:
    assert not Policy().judge(NONCE, [], []).valid
    assert not Policy().judge(NONCE, PARTS, []).valid
    assert not Policy().judge(NONCE, PARTS, evidence(PARTS[:2])).valid
    assert not Policy().judge(NONCE, PARTS[:2], evidence()).valid, "evidence about a part that did not answer"
    assert not Policy().judge(NONCE, [*PARTS, PARTS[0]], evidence()).valid


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        (Kind.CONSENSUS, {"measured": 1.0}, "fewer than 2 agree"),
        (Kind.CONSENSUS, {"measured": None}, "fewer than 2 agree"),
        (Kind.CONSENSUS, {"measured": float("nan")}, "fewer than 2 agree"),
        (Kind.LEAKAGE, {"measured": 0.6}, "more than 0.5 leaks"),
        (Kind.LEAKAGE, {"measured": None}, "more than 0.5 leaks"),
        (Kind.ATTESTATION, {"simulated": True}, "is simulated"),
    ],
)
def test_what_was_measured_has_to_be_enough(kind: Kind, change: dict[str, Any], why: str) -> None:
    found = [replace(each, **change) if each.kind is kind else each for each in evidence()]
    verdict = STRICT.judge(NONCE, PARTS, found)
    assert len(verdict.reasons) == len(PARTS)
    assert all(why in reason for reason in verdict.reasons)


def test_what_is_simulated_counts_where_the_policy_says_so() -> None:
    found = [replace(each, simulated=each.kind is Kind.ATTESTATION) for each in evidence()]
    assert replace(STRICT, allow_simulated=True).judge(NONCE, PARTS, found).valid


def test_proofs_are_needed_of_all_parts_of_those_answers_that_the_seed_draws() -> None:
    policy = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}), proofs=0.3)
    bare = [each for each in evidence() if each.kind is not Kind.ZK]
    drawn = 0
    for number in range(300):
        seed = number.to_bytes(32, "big")
        drawn += policy.proves(seed)
        assert policy.judge(seed, PARTS, evidence()).valid
        assert policy.judge(seed, PARTS, bare).valid != policy.proves(seed)
        one = [each for each in evidence() if each.kind is not Kind.ZK or each.part == PARTS[0]]
        assert policy.judge(seed, PARTS, one).valid != policy.proves(seed), "a part alone is no proof of the answer"
    assert 50 < drawn < 130, "of 300, at 0.3: five standard deviations"
    assert not Policy().proves(NONCE)


def test_of_the_head_alone_a_proof_is_needed_where_the_policy_says_so() -> None:
    policy = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}), proof_parts="head")
    bare = [each for each in evidence() if each.kind is not Kind.ZK]
    head = [each for each in evidence() if each.kind is Kind.ZK and each.part == PARTS[-1]]
    other = [each for each in evidence() if each.kind is Kind.ZK and each.part != PARTS[-1]]
    assert policy.to_prove(NONCE, PARTS) == tuple(PARTS[-1:])
    assert policy.judge(NONCE, PARTS, [*bare, *head]).valid
    assert not policy.judge(NONCE, PARTS, [*bare, *other]).valid
    assert not replace(policy, proof_parts="all").judge(NONCE, PARTS, [*bare, *head]).valid
    assert replace(policy, proofs=0.0).to_prove(NONCE, PARTS) == ()
    alone = [each for each in [*bare, *head] if each.kind is not Kind.CONSENSUS or each.part == PARTS[-1]]
    assert not policy.judge(NONCE, PARTS, alone).valid, "nothing speaks for the others"
    with pytest.raises(UserError, match="proof_parts: with head alone consensus speaks for the other parts"):
        policy.requiring("zk")
    assert Policy(proof_parts="head").requiring("consensus,zk") == policy


def test_whether_others_answer_too_is_drawn_from_the_seed() -> None:
    policy = Policy(audits=0.3)
    drawn = [policy.sizes(number.to_bytes(32, "big"), "stage-1").replicas for number in range(300)]
    assert set(drawn) == {1, 3}
    assert 50 < drawn.count(3) < 130, "of 300, at 0.3: five standard deviations"
    alone = [replace(each, measured=1.0) if each.kind is Kind.CONSENSUS else each for each in evidence(["stage-1"])]
    for number in range(50):
        seed = number.to_bytes(32, "big")
        audited = policy.sizes(seed, "stage-1").replicas == 3
        assert policy.judge(seed, ["stage-1"], alone).valid != audited, "an answer of one where three were drawn"
    assert Policy().sizes(NONCE, "stage-1").quorum == 2
    assert Policy(require=frozenset({Kind.ZK})).sizes(NONCE, "stage-1").replicas == 1


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["all", "head"]), st.one_of(st.none(), st.floats(0, 1)))
def test_a_policy_is_read_from_what_it_says_of_itself(
    audits: float, proofs: float, proof_parts: str, leakage: float | None
) -> None:
    policy = replace(STRICT, audits=audits, proofs=proofs, proof_parts=proof_parts, leakage=leakage)
    assert Policy.of(policy.plain(), lambda problem, key: ValueError(problem)) == policy


# Reading


def test_a_policy_is_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        'replicas = 4\nquorum = 3\nfaulty = 1\ntolerance = 1e-5\nrequire = ["consensus", "zk"]\n'
        'proofs = "always"\nproof_parts = "head"\nallow_simulated = true\nleakage = 0.25\n'
    )
    wanted = frozenset({Kind.CONSENSUS, Kind.ZK})
    assert Policy.load(file) == Policy(4, 3, 1, 1e-5, wanted, 1.0, 1.0, "head", True, 0.25)
    file.write_text("")
    assert Policy.load(file) == Policy()


def test_a_policy_is_read_from_yaml_by_the_reader_of_recipes(tmp_path: Path) -> None:
    from decentral.run.source import read_file

    file = tmp_path / "policy.yaml"
    file.write_text("replicas: 5\nfaulty: 2\nquorum: 3\nproofs: 0.5\n")
    document = read_file(file)
    assert Policy.of(document.values, document.error) == Policy(5, 3, 2, proofs=0.5)
    file.write_text("# mine\nreplicas: many\n")
    document = read_file(file)
    with pytest.raises(UserError, match=r"policy\.yaml:2: replicas: must be a whole number"):
        Policy.of(document.values, document.error)


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("quorom = 2", "quorom", "did you mean 'quorum'"),
        ("replicas = 2.5", "replicas", "whole number"),
        ("replicas = true", "replicas", "whole number"),
        ("replicas = -1", "replicas", "whole number"),
        ("replicas = 2", "replicas", "leave 1 for a quorum of 2"),
        ("quorum = 1", "quorum", "has to be more"),
        ("quorum = 3", "quorum", "leave 2 for a quorum of 3"),
        ("faulty = 2", "faulty", "has to be more"),
        ("tolerance = nan", "tolerance", "number from 0 to 1"),
        ("tolerance = '1e-4'", "tolerance", "number from 0 to 1"),
        ("require = ['consensus', 'prayer']", "require", "unknown requirement 'prayer'"),
        ("require = 'consensus'", "require", "must be a list"),
        ("require = []", "require", "must be a list"),
        ("require = [3]", "require", "unknown requirement 3"),
        ("proofs = 'often'", "proofs", "number from 0 to 1"),
        ("proof_parts = 'tail'", "proof_parts", "must be all or head, not 'tail'"),
        ("proof_parts = 1", "proof_parts", "must be all or head, not 1"),
        ("proof_parts = 'head'\nrequire = ['zk']", "proof_parts", "consensus speaks for the other parts"),
        ("proofs = 1.5", "proofs", "number from 0 to 1"),
        ("allow_simulated = 1", "allow_simulated", "true or false"),
        ("leakage = -0.5", "leakage", "number from 0 to 1"),
        ("[require]\nconsensus = true", "require", "must be a list"),
    ],
)
def test_what_cannot_be_is_refused_with_key_file_and_line(tmp_path: Path, line: str, key: str, why: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(f"# mine\n{line}\n")
    with pytest.raises(UserError, match=rf"policy\.toml:2: {key}: .*{why}"):
        Policy.load(file)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.toml: cannot be read"):
        Policy.load(tmp_path / "absent.toml")
    file = tmp_path / "policy.toml"
    for content in (b"= nonsense", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="no policy in TOML"):
            Policy.load(file)


def test_flags_say_what_is_required() -> None:
    assert Policy().requiring(" zk, attestation,").require == {Kind.ZK, Kind.ATTESTATION}
    with pytest.raises(UserError, match="did you mean 'consensus'"):
        Policy().requiring("consenus")
    with pytest.raises(UserError, match="require: must be a list of consensus, zk, attestation"):
        Policy().requiring(" , ")


def test_a_policy_that_cannot_be_met_is_refused_before_any_work() -> None:
    enough = dict.fromkeys(PARTS, 3)
    Policy().check_possible(enough, ())
    STRICT.check_possible(enough, {Kind.ZK, Kind.ATTESTATION})
    with pytest.raises(UserError, match="wants 3 replicas of stage-2; there are 2"):
        Policy().check_possible({**enough, "stage-2": 2}, ())
    with pytest.raises(UserError, match="wants attestation"):
        STRICT.check_possible(enough, {Kind.ZK})
