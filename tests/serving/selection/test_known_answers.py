"""A test is a past question, the same bits as it was asked with, and new to whom it is put."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.quorum import Sizes
from decentral.errors import UserError
from decentral.serving.selection.known_answers import Known, KnownAnswers
from decentral.serving.selection.ledger import FILE, Ledger
from decentral.trust.consensus import judge
from decentral.trust.evidence import Claim, FaultKind, Question, Reply, commit, tensors_digest
from decentral.wire.identity import Identity

ANNA, BERT, CARL = (Identity.from_seed(name.encode()) for name in ("anna", "bert", "carl"))
MODEL, OTHER = bytes(32), bytes(31) + b"\1"
PART = "stage-1"


def question(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(2, 3, generator=generator), "mask": torch.rand(4, generator=generator) > 0.5}


def answer(seed: int) -> dict[str, Tensor]:
    return {"y": question(seed)["x"].bfloat16().T}  # not contiguous


def kept(ledger: Ledger, count: int, most: int = 8) -> KnownAnswers:
    answers = KnownAnswers(ledger, most, chance=random.Random(0))
    for seed in range(count):
        answers.keep(PART, MODEL, question(seed), answer(seed), [ANNA.id])
    return answers


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / FILE)


def drawn(answers: KnownAnswers, peer: Identity) -> list[Known]:
    found = []
    while (known := answers.known(PART, MODEL, [peer.id])) is not None:
        found.append(known)
    return found


def test_questions_come_back_bit_for_bit_each_once_and_in_an_order_of_chance(ledger: Ledger) -> None:
    found = drawn(kept(ledger, 6), BERT)
    written = {tensors_digest(question(seed)): tensors_digest(answer(seed)) for seed in range(6)}
    assert {tensors_digest(known.inputs): tensors_digest(known.output) for known in found} == written
    assert len(found) == 6
    assert [tensors_digest(known.inputs) for known in found] != list(written)


def test_nobody_is_tested_by_what_it_was_asked_before(ledger: Ledger) -> None:
    answers = kept(ledger, 3)
    assert answers.known(PART, MODEL, [ANNA.id]) is None
    assert answers.known(PART, MODEL, [BERT.id, ANNA.id]) is None
    assert len(drawn(answers, BERT)) == 3
    assert len(drawn(answers, CARL)) == 3, "what is a test for one stays one for others"
    answers.keep(PART, MODEL, question(0), answer(0), [CARL.id])
    assert drawn(answers, BERT) == []
    answers.keep(PART, MODEL, question(7), answer(7), [])
    assert len(drawn(answers, ANNA)) == 1


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(0, 9))
def test_there_are_never_more_than_wanted_and_the_newest_is_among_them(
    tmp_path_factory: pytest.TempPathFactory, most: int, count: int
) -> None:
    with Ledger.open(tmp_path_factory.mktemp("known") / FILE) as ledger:
        found = drawn(kept(ledger, count, most), BERT)
    assert len(found) == min(most, count)
    assert not count or tensors_digest(question(count - 1)) in {tensors_digest(known.inputs) for known in found}


def test_old_and_new_questions_stay_mixed(ledger: Ledger) -> None:
    digests = {tensors_digest(question(seed)): seed for seed in range(32)}
    found = {digests[tensors_digest(known.inputs)] for known in drawn(kept(ledger, 32), BERT)}
    assert len(found) == 8
    assert min(found) < 24


def test_questions_to_a_model_that_is_no_more_go(ledger: Ledger) -> None:
    answers = kept(ledger, 3)
    assert answers.known(PART, OTHER, [BERT.id]) is None
    answers.keep(PART, OTHER, question(9), answer(9), [])
    assert answers.known(PART, MODEL, [BERT.id]) is None
    assert answers.known(PART, OTHER, [BERT.id]) is not None
    assert answers.known("stage-2", OTHER, [BERT.id]) is None


def test_what_is_too_large_or_not_wanted_is_not_kept(ledger: Ledger) -> None:
    none, small = KnownAnswers(ledger, most=0), KnownAnswers(ledger, most_bytes=100)
    none.keep(PART, MODEL, question(0), answer(0), [])
    small.keep(PART, MODEL, {"x": torch.zeros(30)}, {}, [])
    assert drawn(small, BERT) == []
    small.keep(PART, MODEL, {"x": torch.zeros(25)}, {}, [])
    assert len(drawn(small, BERT)) == 1


def test_they_survive_the_process(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / FILE) as ledger:
        assert kept(ledger, 2).known(PART, MODEL, [BERT.id]) is not None
    with Ledger.open(tmp_path / FILE) as ledger:
        assert len(drawn(KnownAnswers(ledger), BERT)) == 1


def test_a_known_answer_tells_who_is_honest_from_who_is_not(ledger: Ledger) -> None:
    known = kept(ledger, 1).known(PART, MODEL, [BERT.id, CARL.id])
    assert known is not None
    asked = Question(bytes(16), known.part, known.model, tensors_digest(known.inputs), bytes(32), 1)
    said = {BERT: known.output, CARL: {"y": known.output["y"] + 1}}
    sealed = {who: commit(who, Claim(asked, tensors_digest(what)), bytes(32)) for who, what in said.items()}
    shown = [each.commitment for each in sealed.values()]
    replies = {who.id: Reply(each.commitment, each.open(shown), said[who]) for who, each in sealed.items()}
    found = judge(asked, [BERT.id, CARL.id], replies, Sizes(2, 0, 1), 1e-2, reference=known.output)
    assert [(fault.node, fault.kind) for fault in found.faults] == [(CARL.id, FaultKind.LIED)]


def test_a_question_that_is_not_what_was_written_is_damage(ledger: Ledger) -> None:
    for column, content in (("inputs", b"\0" * 40), ("output", bytes(8)), ("digest", bytes(32))):
        answers = kept(ledger, 1)
        with ledger.writing() as connection:
            connection.execute(f"UPDATE answers SET {column} = ?", (content,))
        with pytest.raises(UserError, match="is damaged"):
            answers.known(PART, MODEL, [BERT.id])
        with ledger.writing() as connection:
            connection.execute("DELETE FROM answers")
