"""A small serving cluster in memory, and a client that asks it: what receipts are made of, honest or not.

The parts are the stages of a real network, and peers sign with real keys; only the wire is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from decentral.models.stages import Stage, split
from decentral.serving.stages.model import Network, save_stages
from decentral.training.digest import model_digest
from decentral.trust.anchors import CERTIFICATE, Anchor, Anchors, Part
from decentral.trust.consensus import Tensors
from decentral.trust.evidence import Claim, Question, Reply, Sealed, commit, tensors_digest
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.trust.receipt import Exchange, Receipt, Transcript, examine
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId

PEM = f"{CERTIFICATE}\nAAAA\n-----END CERTIFICATE-----".encode()
LETTERS = "abcdefghij"
Acts = Mapping[tuple[str, int], str]
"""What the replica of a part at a place of its line does instead of what it should; see `World.replies`."""


class Pair(nn.Module):
    """Two tensors cross between its blocks, and two come out."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x
        for block in self.blocks:
            x, y = torch.tanh(block(x)) + y, x
        return x, y


@lru_cache
def stages(count: int, width: int = 4, pair: bool = False) -> list[Stage]:
    torch.manual_seed(0)
    network = Pair(width, count) if pair else nn.Sequential(*(nn.Linear(width, width) for _ in range(count)))
    cuts = [f"blocks.{i}" if pair else str(i) for i in range(count - 1)]
    return split(network, cuts, torch.randn(2, width))


@dataclass(frozen=True)
class World:
    """`parts` stages, the first `local` of them the client's; `replicas` peers serve each of the others."""

    parts: int = 3
    local: int = 0
    replicas: int = 3
    policy: Policy = field(default_factory=Policy)
    tolerance: float = 1e-4
    rounding: bool = False
    """Whether no two machines come to the same bits."""
    pair: bool = False
    epoch: int = 7
    seed: bytes = b"s" * 32

    @cached_property
    def stages(self) -> dict[str, Stage]:
        return {f"stage-{i}": stage for i, stage in enumerate(stages(self.parts, pair=self.pair))}

    @cached_property
    def client(self) -> Identity:
        return Identity.from_seed(b"client")

    @cached_property
    def peers(self) -> dict[PeerId, Identity]:
        """By id, those of a part one after another."""
        found = (self.identity(name, letter) for name in self.stages for letter in LETTERS[: self.replicas])
        return {identity.id: identity for identity in found}

    def identity(self, part: str, letter: str) -> Identity:
        return Identity.from_seed(f"{part}-{letter}".encode())

    @cached_property
    def anchors(self) -> Anchors:
        digests = {name: model_digest(stage.description, stage.state()) for name, stage in self.stages.items()}
        served = list(self.stages)[self.local :]
        return Anchors(
            PEM,
            tuple(
                Anchor(f"{name}-{letter}", self.identity(name, letter).id, "127.0.0.1:1", name, digests[name])
                for name in served
                for letter in LETTERS[: self.replicas]
            ),
            self.epoch,
            tuple(
                Part(name, digest, "peers" if name in served else "client", self.tolerance, 2.0)
                for name, digest in digests.items()
            ),
        )

    @cached_property
    def inputs(self) -> Tensors:
        """What leaves the client."""
        tensors: Mapping[str, Tensor] = {"x": torch.randn(2, 4, generator=torch.Generator().manual_seed(1))}
        tensors = {next(iter(self.stages.values())).inputs[0].name: tensors["x"]}
        with torch.no_grad():
            for stage in list(self.stages.values())[: self.local]:
                tensors = stage.run(tensors)
        return tensors

    @cached_property
    def order(self) -> Order:
        pinned = [(part.name, bytes.fromhex(part.digest)) for part in self.anchors.parts]
        steps = tuple(
            Step(name, digest, candidates[0].id, {each.id: 0.5 for each in candidates})
            for name, digest in pinned[self.local :]
            for candidates in [self.anchors.replicas(name)]
        )
        return Order(
            self.seed, self.epoch, self.client.id, 1_700_000_000, self.policy, tensors_digest(self.inputs), steps,
            tuple(pinned[: self.local]),
        )  # fmt: skip

    def transcript(
        self, acts: Acts | None = None, order: Order | None = None, content: Policy | None = None
    ) -> Transcript:
        """Asks one part after another, as far as there are answers that count: with what the client is `content`."""
        order = order or self.order
        exchanges: list[Exchange] = []
        given: Tensors = self.inputs
        for step in order.steps:
            exchanges.append(self.exchange(order, step, given, acts or {}))
            answer = (
                examine(Transcript(order, tuple(exchanges)), self.anchors, content or order.policy)
                .judgements[-1]
                .answer
            )
            if answer is None or answer.tensors is None:
                break
            given = answer.tensors
        return Transcript(order, tuple(exchanges), self.inputs)

    def signed(self, transcript: Transcript) -> Receipt:
        """As an honest client makes a receipt of it."""
        return Receipt.signed(transcript, examine(transcript, self.anchors, transcript.order.policy), self.client)

    def receipt(self, acts: Acts | None = None) -> Receipt:
        return self.signed(self.transcript(acts))

    def exchange(self, order: Order, step: Step, given: Tensors, acts: Acts) -> Exchange:
        wanted = order.policy.sizes(order.seed, step.part).replicas
        question = order.question(step, tensors_digest(given))
        asked: list[PeerId] = []
        committed = 0
        for place, node in enumerate(order.line(step)):
            if committed == wanted:
                break
            asked.append(node)
            committed += acts.get((step.part, place)) != "silent"
        doing = {node: acts.get((step.part, place), "honest") for place, node in enumerate(asked)}
        return Exchange(step, question.inputs, tuple(asked), self.replies(question, given, doing))

    def computed(self, question: Question, given: Tensors, node: PeerId) -> dict[str, Tensor]:
        with torch.no_grad():
            right = self.stages[question.part].run(given)
        if not self.rounding:
            return right
        seed = int.from_bytes(hashlib.sha256(node.encode()).digest()[:4], "big")
        return {
            name: tensor + 1e-6 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
            for name, tensor in right.items()
        }

    def replies(self, question: Question, given: Tensors, doing: Mapping[PeerId, str]) -> dict[PeerId, Reply]:
        sealed: dict[PeerId, Sealed] = {}
        tensors: dict[PeerId, Tensors] = {}
        for node, act in doing.items():
            output = self.computed(question, given, node)
            if act in ("lies", "conspires"):
                output = {name: -tensor if act == "conspires" else tensor + 1 for name, tensor in output.items()}
            if act == "not a number":
                output = {name: torch.full_like(tensor, torch.nan) for name, tensor in output.items()}
            salt = hashlib.sha256(b"salt" + node.encode() + question.task).digest()
            asked = replace(question, epoch=question.epoch - 1) if act == "is stale" else question
            sealed[node] = commit(self.peers[node], Claim(asked, tensors_digest(output)), salt)
            tensors[node] = output
        said = {node: each.commitment for node, each in sealed.items() if doing[node] != "silent"}
        for node in said:
            if doing[node] == "copies":
                said[node] = next(other for each, other in said.items() if each != node)
        replies: dict[PeerId, Reply] = {}
        here: dict[bytes, Tensors] = {}
        for node, act in doing.items():
            if act in ("silent", "withholds", "copies"):
                replies[node] = Reply(said.get(node))
                continue
            reveal = sealed[node].open(list(said.values()))
            if act == "keeps":
                replies[node] = Reply(said[node], reveal)
                continue
            sent = {name: tensor * 2 for name, tensor in tensors[node].items()} if act == "breaks" else None
            shared = here.setdefault(reveal.output, tensors[node]) if sent is None else sent
            replies[node] = Reply(said[node], reveal, shared)
        return replies


NETWORK = Network("mlp", {"hidden": [8, 8]}, (1, 2, 2), 3, 3, False, "nobody")


class Filed(World):
    """Three parts of a network that can be written down."""

    @cached_property
    def stages(self) -> dict[str, Stage]:
        torch.manual_seed(5)
        return {f"stage-{place}": stage for place, stage in enumerate(NETWORK.split(NETWORK.build()))}

    @cached_property
    def inputs(self) -> Tensors:
        images = torch.randn(4, *NETWORK.input, generator=torch.Generator().manual_seed(2))
        return {self.stages["stage-0"].inputs[0].name: images}

    def keep(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        save_stages(folder, NETWORK, list(self.stages.values()))
