"""What a client gets: an answer that its policy accepts, or an error that says who is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from decentral.core.agreement import Tensors
from decentral.core.budget import Budget
from decentral.errors import DecentralError
from decentral.trust.anchors import Anchors
from decentral.trust.evidence import Fault, Finding, Kind
from decentral.trust.policy import Verdict
from decentral.trust.receipt import Receipt
from decentral.wire.messages import PeerId

UNDECIDED = -1


def offered(anchors: Anchors, *, proofs: bool) -> frozenset[Kind]:
    """Evidence that the peers of a cluster can give: proofs where it has circuits, and of machines where any count."""
    zk = {Kind.ZK} if proofs else set()
    machines = {Kind.ATTESTATION} if anchors.machines is not None else set()
    return frozenset({Kind.CONSENSUS, *zk, *machines})


@dataclass(frozen=True, slots=True)
class Cost:
    """`asked`: answers that replicas were asked for; bytes of frames; `waited`: seconds in all."""

    asked: int
    sent: int
    received: int
    waited: float


@dataclass(frozen=True, slots=True, eq=False)
class Proved:
    """What circuits have come to: `integers` at `scale` stand for the numbers integers / 2^scale.

    `provers`: whose proofs they are and the seconds that each took, by part; none where no proof was drawn, or where it
    is `pending`: the answer is to be proved, and was taken before it was. `floats`: what the model says in floats, if
    the client holds it, and `difference`: how far at most any number is from that.
    """

    integers: Tensors
    scale: int
    provers: Mapping[str, tuple[PeerId, float]]
    floats: Tensors | None = None
    difference: float | None = None
    pending: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """An answer that its policy accepts.

    `output`: of the model, or the first of its tensors; `outputs`: all by name. `labels`: for a classifier's logits
    (n, classes) the class of each sample that no drift among honest machines can change, or UNDECIDED. `faults`: who
    did what, on the way to this answer. `noise`: what the client added to what left it, and what that keeps of each
    input; None: nothing. `proved`: of an answer of circuits, whose outputs are their numbers in float64.
    """

    outputs: Tensors
    labels: tuple[int, ...]
    verdict: Verdict
    findings: tuple[Finding, ...]
    faults: tuple[Fault, ...]
    problems: Mapping[PeerId, str]
    receipt: Receipt
    cost: Cost
    noise: Budget | None = None
    proved: Proved | None = None

    @property
    def output(self) -> Tensor:
        return next(iter(self.outputs.values()))


class Unverified(DecentralError):
    """No answer that the policy accepts. `faults`: who is to blame, `problems`: why peers said nothing, where it is
    known; `receipt`: of the last attempt.
    """

    def __init__(
        self,
        reasons: Sequence[str],
        faults: Sequence[Fault],
        receipt: Receipt,
        problems: Mapping[PeerId, str] | None = None,
    ) -> None:
        self.reasons, self.faults, self.receipt = tuple(reasons), tuple(faults), receipt
        self.problems = dict(problems or {})
        super().__init__(f"no answer that the policy accepts: {'; '.join(reasons)}")
