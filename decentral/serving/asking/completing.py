"""An answer that was taken before it was proved: its receipt has all that its replicas need to prove it later."""

from __future__ import annotations

from decentral.errors import UserError
from decentral.serving.asking.chain import Course
from decentral.trust.anchors import Anchors
from decentral.trust.evidence import Kind
from decentral.trust.examination import judged
from decentral.trust.receipt import Receipt
from decentral.wire.messages import PeerId


def course_of(receipt: Receipt, anchors: Anchors, client: PeerId) -> Course:
    """How the order went, as its client knew it before proofs were there. Blocking.

    Raises UserError for a receipt that this client did not sign, of another epoch, or with nothing left to prove.
    """
    transcript, order = receipt.transcript, receipt.transcript.order
    if (problem := receipt.unsigned()) is not None:
        raise UserError(f"it cannot be completed: {problem}")
    if order.client != client:
        raise UserError("it cannot be completed: another client has signed it, and has to sign what comes of it")
    if order.epoch != anchors.epoch:
        raise UserError(f"it cannot be completed: it is of epoch {order.epoch}, and it is {anchors.epoch} now")
    to_prove = order.policy.to_prove(order.seed, [step.part for step in order.steps])
    if not to_prove:
        raise UserError("it cannot be completed: no proof was asked for")
    proved = [exchange.step.part for exchange in transcript.exchanges if Kind.ZK in exchange.evidence]
    if set(to_prove) <= set(proved):
        raise UserError("it is complete: it has all its proofs")
    judgements = tuple(judged(transcript, place, anchors, order.policy) for place, _ in enumerate(transcript.exchanges))
    answers = [judgement.answer for judgement in judgements]
    here = transcript.inputs is not None and all(each is not None and each.tensors is not None for each in answers)
    if len(answers) < len(order.steps) or not here:
        raise UserError("it cannot be completed: there is no answer in it that could be proved")
    return Course(transcript, judgements, {})
