"""What is said about an answer, as values that `canonical` writes, and back: tensors, replies, transcripts, findings.

Reading raises Malformed, ValueError, KeyError, TypeError, AttributeError or RuntimeError for what is of another form.
What says more than it need, or the same in another way, is found by whoever writes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from decentral import canonical
from decentral.trust.consensus import Tensors, sent
from decentral.trust.evidence import DIGEST_BYTES, SALT_BYTES, Finding, Kind, Reply, tensors_digest
from decentral.trust.order import MOST_CANDIDATES, Order, Step
from decentral.trust.policy import Verdict
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.conversation import Reveal
from decentral.wire.elements import Arrival, Elements
from decentral.wire.identity import PEER_ID, PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from decentral.wire.limits import CHUNK_BYTES, Limits
from decentral.wire.messages import PeerId
from decentral.wire.v1 import messages_pb2 as pb

MOST_BYTES = 1 << 28
"""Of a receipt, and of the tensors in it."""
_LIMITS = Limits(model_bytes=MOST_BYTES, tensors=1024)
_DTYPE = "DATA_TYPE_"


# ---- tensors ------------------------------------------------------------------------------------------------------


def tensors(named: Tensors) -> dict[str, Any]:
    """Names, types and shapes in the order of their bytes. Raises TypeError for what has no encoding on the wire."""
    elements = Elements(named)
    data = b"".join(piece for index in range(elements.chunks) for piece in elements.chunk(index))
    return {
        "tensors": [
            [header.name, pb.DataType.Name(header.dtype).removeprefix(_DTYPE).lower(), list(header.shape)]
            for header in elements.headers
        ],
        "data": canonical.text(data),
    }


def read_tensors(plain: Any) -> dict[str, Tensor]:
    headers = [
        pb.TensorHeader(name=name, dtype=_DTYPE + dtype.upper(), shape=shape) for name, dtype, shape in plain["tensors"]
    ]
    data = memoryview(canonical.data(plain["data"]))
    arrival = Arrival(headers, len(data), _LIMITS)
    while arrival.left:
        start = len(data) - arrival.left
        arrival.take(data[start : start + CHUNK_BYTES])
    return arrival.tensors()


# ---- transcripts --------------------------------------------------------------------------------------------------


def transcript(said: Transcript) -> dict[str, Any]:
    """With the tensors that a verifier needs: what the last part came to; of a part that is disputed, what it was given
    and what its replicas came to; and where answers are proved, what was asked, what the first part that is proved was
    given, and of a part that is yet to be proved both. Raises ValueError where other parts were asked than ordered.
    """
    order = said.order
    if [exchange.step for exchange in said.exchanges] != list(order.steps[: len(said.exchanges)]):
        raise ValueError("other parts were asked than ordered")
    to_prove = order.policy.to_prove(order.seed, [step.part for step in order.steps])
    kept: dict[bytes, Tensors] = {}
    before = {} if said.inputs is None else {order.inputs: said.inputs}
    exchanges = []
    for place, exchange in enumerate(said.exchanges, 1):
        came = {node: exchange.replies.get(node, Reply()) for node in exchange.asked}
        digests = sent(came.values())
        outputs = dict(digests.values())
        replies = []
        for node, reply in came.items():
            digest = None if reply.tensors is None else digests[id(reply.tensors)][0]
            if digest is not None and reply.reveal is not None and digest == reply.reveal.output:
                digest = None
            elif digest is not None:
                kept[digest] = outputs[digest]
            replies.append(_reply(node, reply, digest))
        whole = exchange.disputed or (exchange.step.part in to_prove and Kind.ZK not in exchange.evidence)
        opens = order.policy.proved and (place == 1 or exchange.step.part in to_prove[:1])
        if (whole or opens) and exchange.inputs in before:
            kept[exchange.inputs] = before[exchange.inputs]
        if whole or place == len(said.exchanges):
            kept |= outputs
        before = outputs
        evidence = {kind.value: canonical.text(data) for kind, data in exchange.evidence.items()}
        exchanges.append({"inputs": exchange.inputs.hex(), "asked": replies, "evidence": evidence})
    named = {digest.hex(): tensors(each) for digest, each in kept.items()}
    return {"order": order.plain(), "exchanges": exchanges, "tensors": named}


def read_transcript(plain: Any) -> Transcript:
    order = Order.of(plain["order"])
    if len(plain["exchanges"]) > len(order.steps):
        raise ValueError("more parts than were ordered")
    held = {read_digest(digest): read_tensors(each) for digest, each in plain["tensors"].items()}
    if any(tensors_digest(each) != digest for digest, each in held.items()):
        raise ValueError("tensors that have another digest")
    exchanges = (_read_exchange(step, each, held) for step, each in zip(order.steps, plain["exchanges"], strict=False))
    return Transcript(order, tuple(exchanges), held.get(order.inputs))


def _read_exchange(step: Step, plain: Any, held: Mapping[bytes, Tensors]) -> Exchange:
    if len(plain["asked"]) > MOST_CANDIDATES:
        raise ValueError("more replicas than can be asked")
    replies = dict(_read_reply(each, held) for each in plain["asked"])
    evidence = {Kind(kind): canonical.data(data) for kind, data in plain["evidence"].items()}
    return Exchange(step, read_digest(plain["inputs"]), tuple(replies), replies, evidence)


def _reply(node: PeerId, said: Reply, other: bytes | None) -> dict[str, Any]:
    """`other`: the digest of the tensors that it has sent, if it had revealed another one."""
    return {
        "peer": node,
        "commitment": None if said.commitment is None else canonical.text(said.commitment),
        "reveal": None if said.reveal is None else _reveal(said.reveal),
        "sent": None if other is None else other.hex(),
    }


def _reveal(said: Reveal) -> dict[str, str]:
    return {
        "public_key": canonical.text(said.public_key),
        "output": said.output.hex(),
        "salt": canonical.text(said.salt),
        "signature": canonical.text(said.signature),
        **({"vouched": canonical.text(said.vouched)} if said.vouched else {}),
    }


def _read_reply(plain: Any, held: Mapping[bytes, Tensors]) -> tuple[PeerId, Reply]:
    """`held`: tensors by their digests."""
    if not PEER_ID.fullmatch(plain["peer"]):
        raise ValueError(f"{plain['peer']!r} is no peer")
    commitment = None if plain["commitment"] is None else canonical.data(plain["commitment"], DIGEST_BYTES)
    opened = None if plain["reveal"] is None else _read_reveal(plain["reveal"])
    came = None if opened is None else held.get(opened.output)
    if plain["sent"] is not None:
        came = held[read_digest(plain["sent"])]
    return PeerId(plain["peer"]), Reply(commitment, opened, came)


def _read_reveal(plain: Any) -> Reveal:
    return Reveal(
        canonical.data(plain["public_key"], PUBLIC_KEY_BYTES),
        read_digest(plain["output"]),
        canonical.data(plain["salt"], SALT_BYTES),
        canonical.data(plain["signature"], SIGNATURE_BYTES),
        canonical.data(plain.get("vouched", "")),
    )


def read_digest(plain: Any) -> bytes:
    """From hexadecimal."""
    found = bytes.fromhex(plain)
    if len(found) != DIGEST_BYTES:
        raise ValueError(f"{plain!r} is no digest")
    return found


# ---- what was found -----------------------------------------------------------------------------------------------


def finding(found: Finding) -> dict[str, Any]:
    return {
        "kind": found.kind.value,
        "part": found.part,
        "passed": found.passed,
        "detail": found.detail,
        "measured": found.measured,
        "simulated": found.simulated,
    }


def read_finding(plain: Any) -> Finding:
    measured = plain["measured"]
    if not (_are(str, plain["part"], plain["detail"]) and _are(bool, plain["passed"], plain["simulated"])):
        raise ValueError("a finding with fields of other types")
    if measured is not None and type(measured) is not float:
        raise ValueError("a finding that has measured no number")
    return Finding(Kind(plain["kind"]), plain["part"], plain["passed"], plain["detail"], measured, plain["simulated"])


def verdict(found: Verdict) -> dict[str, Any]:
    """Without the findings."""
    return {"valid": found.valid, "reasons": list(found.reasons)}


def read_verdict(plain: Any) -> Verdict:
    if not (_are(bool, plain["valid"]) and _are(str, *plain["reasons"])):
        raise ValueError("a verdict with fields of other types")
    return Verdict(plain["valid"], tuple(plain["reasons"]))


def _are(kind: type, *values: object) -> bool:
    return all(type(value) is kind for value in values)
