"""What a client fixes before anybody answers: a task, from its inputs to who is asked about every part.

All of it goes into the task's name, which stands in every question and so under every answer's signature: nobody, the
client included, can later say that something else was ordered. Who serves, who audits and what is proved is drawn from
a seed that nobody else knows until the answers are given; replicas see its digest, the nonce.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from decentral import canonical
from decentral.core.lots import draw
from decentral.errors import Malformed, Refusal
from decentral.trust.anchors import PART_FORMS
from decentral.trust.evidence import DIGEST_BYTES, MAX_EPOCH, TASK_BYTES, Question
from decentral.trust.policy import Policy
from decentral.wire.identity import PEER_ID
from decentral.wire.messages import PeerId

SEED_BYTES = 32
MOST_STEPS, MOST_CANDIDATES = 256, 1000
_TASK, _NONCE = b"decentral task v1\0", b"decentral nonce v1\0"


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the model, the replica that serves it, and what each candidate weighs when auditors are drawn.

    `model` is the digest of the part's graph and parameters; the one that serves is a candidate too.
    """

    part: str
    model: bytes
    server: PeerId
    weights: Mapping[PeerId, float]


@dataclass(frozen=True)
class Order:
    """See above. `inputs`: digest of the tensors that leave the client; `local`: the parts before, which it computed
    itself, with their digests; `time`: whole seconds since 1970, as the client says.
    """

    seed: bytes
    epoch: int
    client: PeerId
    time: int
    policy: Policy
    inputs: bytes
    steps: tuple[Step, ...]
    local: tuple[tuple[str, bytes], ...] = ()

    @cached_property
    def task(self) -> bytes:
        """The name: the first 16 bytes of SHA-256 over all of this. The seed keeps it from being guessed."""
        return hashlib.sha256(_TASK + canonical.encode(self.plain())).digest()[:TASK_BYTES]

    @cached_property
    def nonce(self) -> bytes:
        """What the replicas are told of the seed."""
        return hashlib.sha256(_NONCE + self.seed).digest()

    def line(self, step: Step) -> list[PeerId]:
        """All candidates in the order in which they are asked: the one that serves, then as they are drawn by lots."""
        others = {str(node): weight for node, weight in step.weights.items() if node != step.server}
        return [step.server, *map(PeerId, draw(self.seed, f"audit/{step.part}", others, len(others)))]

    def question(self, step: Step, inputs: bytes) -> Question:
        """What the replicas of a part are asked about tensors with this digest."""
        return Question(self.task, step.part, step.model, inputs, self.nonce, self.epoch)

    def plain(self) -> dict[str, Any]:
        """For `canonical.encode`."""
        return {
            "seed": canonical.text(self.seed),
            "epoch": self.epoch,
            "client": self.client,
            "time": self.time,
            "policy": self.policy.plain(),
            "inputs": self.inputs.hex(),
            "local": [[part, model.hex()] for part, model in self.local],
            "steps": [
                {
                    "part": step.part,
                    "model": step.model.hex(),
                    "server": step.server,
                    "weights": dict(step.weights),
                }
                for step in self.steps
            ],
        }

    @classmethod
    def of(cls, plain: Any) -> Self:
        """From what `plain` gives. Raises Malformed for anything that no order of ours says."""
        try:
            if len(plain["steps"]) > MOST_STEPS:
                raise ValueError(f"an order of {len(plain['steps'])} steps")
            policy = Policy.of(plain["policy"], lambda problem, key: ValueError(f"policy.{key[0]}: {problem}"))
            order = cls(
                canonical.data(plain["seed"], SEED_BYTES),
                _whole(plain["epoch"]),
                _peer(plain["client"]),
                _whole(plain["time"]),
                policy,
                _digest(plain["inputs"]),
                tuple(_step(each) for each in plain["steps"]),
                tuple((_part(part), _digest(model)) for part, model in plain["local"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Malformed(Refusal.MALFORMED, f"an order that breaks the rules ({error})") from None
        if order.plain() != plain:
            raise Malformed(Refusal.MALFORMED, "an order that says more than orders say")
        return order


def _step(plain: Any) -> Step:
    weights = {_peer(node): weight for node, weight in plain["weights"].items()}
    if not 0 < len(weights) <= MOST_CANDIDATES or any(type(weight) is not float for weight in weights.values()):
        raise ValueError(f"{plain['part']!r}: weights of {len(weights)} candidates")
    if any(not 0 < weight <= 1 for weight in weights.values()):
        raise ValueError(f"{plain['part']!r}: a weight that is not in (0, 1]")
    server = _peer(plain["server"])
    if server not in weights:
        raise ValueError(f"{plain['part']!r}: is served by one who is no candidate")
    return Step(_part(plain["part"]), _digest(plain["model"]), server, weights)


def _part(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(PART_FORMS["name"], value):
        raise ValueError(f"{value!r} is no part")
    return value


def _peer(value: object) -> PeerId:
    if not isinstance(value, str) or not PEER_ID.fullmatch(value):
        raise ValueError(f"{value!r} is no peer")
    return PeerId(value)


def _digest(value: object) -> bytes:
    found = bytes.fromhex(value) if isinstance(value, str) else b""
    if len(found) != DIGEST_BYTES or found.hex() != value:
        raise ValueError(f"{value!r} is no digest")
    return found


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < MAX_EPOCH:
        raise ValueError(f"{value!r} is no whole number of an order")
    return value
