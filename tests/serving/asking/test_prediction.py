"""An answer has a first output; an error says why, and has what is known of who failed."""

from __future__ import annotations

import torch

from decentral.serving.asking.prediction import Cost, Prediction, Unverified
from decentral.trust.evidence import Fault, FaultKind
from decentral.trust.policy import Verdict
from decentral.wire.identity import Identity

PEER = Identity.from_seed(b"a").id


def test_the_output_is_the_first_that_the_model_has():
    outputs = {"logits": torch.ones(2, 3), "features": torch.zeros(2, 8)}
    found = Prediction(outputs, (), Verdict(True, ()), (), (), {}, None, Cost(3, 1, 1, 0.1))  # type: ignore[arg-type]
    assert found.output is outputs["logits"]


def test_an_error_names_every_reason_and_keeps_the_evidence():
    fault = Fault(PEER, "stage-0", FaultKind.UNRESPONSIVE, "made no commitment")
    error = Unverified(["stage-0: too few", "stage-1: no answer"], [fault], None, {PEER: "silent"})  # type: ignore[arg-type]
    assert str(error) == "no answer that the policy accepts: stage-0: too few; stage-1: no answer"
    assert error.faults == (fault,)
    assert error.problems == {PEER: "silent"}
