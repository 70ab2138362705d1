"""Whoever waits for proofs hears of each when it is asked for, while it takes long, and when it is there or fails."""

from __future__ import annotations

import torch

from decentral.cli.proving import ProofProgress, plain_proof, proof_words
from decentral.serving.asking.prediction import Proved
from decentral.serving.asking.proving import Proving, State
from decentral.wire.messages import PeerId

NODE = PeerId("a" * 52)
NAMES = {NODE: "stage-0-a"}


def test_a_proof_that_is_looked_at_every_second_is_told_of_every_ten() -> None:
    said: list[str] = []
    progress = ProofProgress(NAMES, said.append)
    for seconds in range(25):
        progress(Proving("stage-0", NODE, float(seconds), State.PROVING))
    progress(Proving("stage-0", NODE, 25.0, State.PROVED))
    assert said == [
        "proving stage-0 (stage-0-a) ... 0 s",
        "proving stage-0 (stage-0-a) ... 10 s",
        "proving stage-0 (stage-0-a) ... 20 s",
        "proved stage-0 (stage-0-a) ... 25 s",
    ]
    progress(Proving("stage-0", PeerId("b" * 52), 3.0, State.FAILED))
    assert said[-1] == f"no proof of stage-0 ({'b' * 52}) ... 3 s"


def test_who_proved_and_how_far_it_is_from_the_floats_is_told() -> None:
    integers = {"y": torch.tensor([[256, -128]])}
    proved = Proved(integers, 7, {"stage-1": (NODE, 2.0), "stage-0": (NODE, 7.25)}, None, 0.01)
    first, second = proof_words(proved, NAMES)
    assert first == "proofs: stage-0 by stage-0-a in 7.2 s, stage-1 by stage-0-a in 2.0 s"
    assert "2^-7" in second and "0.01" in second
    assert plain_proof(proved, NAMES) == {
        "scale": 7,
        "integers": {"y": [[256, -128]]},
        "provers": {
            "stage-0": {"node": "stage-0-a", "seconds": 7.25},
            "stage-1": {"node": "stage-0-a", "seconds": 2.0},
        },
        "difference": 0.01,
        "pending": False,
    }
    assert plain_proof(None, NAMES) is None


def test_an_answer_of_which_no_proof_was_drawn_says_so() -> None:
    (only,) = proof_words(Proved({}, 7, {}), NAMES)
    assert only.startswith("not proved: the policy")
    (only,) = proof_words(Proved({}, 7, {}, pending=True), NAMES)
    assert only.startswith("not proved yet")
