"""Split learning: a network whose ends train at the client and whose middle trains at a server.

Vepakomma, Gupta, Swedish, Raskar, "Split learning for health" (arXiv 1812.00564), the U-shaped form: the client has the
first stage and the last, so that neither inputs nor labels leave it. What leaves are the tensors of two cuts and their
gradients. With `nopeek` the client also descends their distance correlation with its inputs (arXiv 2008.09161).

Both ends are written as they speak: the client's side of a round is a generator that gives what the server is asked,
and is sent what the server answers. Whoever carries the words drives it, in one process or over a network.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.finite import finite
from decentral.core.leakage import no_peek
from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages
from decentral.errors import UserError
from decentral.models.graphs import alike, trace
from decentral.models.stages import Port, Stage
from decentral.models.stages import split as split_network
from decentral.training.classifier import ClassifierLearner
from decentral.training.evaluation import BATCH, Tally
from decentral.training.learner import Evaluation, State, Stop, TrainingReport, never
from decentral.training.loop import Settings, Trainable

CLIENT, SERVER = 0, 1
"""Indices of the two peers."""

SERVERS = frozenset({"seed", "batch_size", "fresh_optimizer", "optimizer", "learning_rate", "momentum", "weight_decay"})
SERVERS |= {"learning_rate_decay", "precision", "channels_last", "device"}
"""Of a learner's settings, those that the server has a use for."""

R = TypeVar("R")
Tensors = Mapping[str, Tensor]


class Kind(Enum):
    """What the server is asked."""

    FORWARD = "forward"
    """Given what the front computes, the answer is what the middle makes of it; gradients will follow."""
    BACKWARD = "backward"
    """Given the gradients of that answer, the server takes its step; the answer is the gradients of what was sent."""
    EVALUATE = "evaluate"
    """As FORWARD, in evaluation mode and without gradients."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that the client asks, after so many steps of the round; `part` counts the batches of an evaluation."""

    kind: Kind
    step: int
    tensors: Tensors
    part: int = 0


class OutOfStep(Exception):
    """The server is not where the client takes it to be: one of them has begun again from an earlier state."""


class SplitClient(ClassifierLearner):
    """The client: images, labels, the first stage (`front`) and the last (`head`).

    Its state has the names of the whole network. In one process it trains with the `partner` that it is given.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        dataset: LabelledImages,
        share: Indices,
        *,
        nopeek: float = 0.0,
        **settings: Any,
    ) -> None:
        """`nopeek` weighs the distance correlation against the task's loss. Raises UserError where it is negative."""
        if nopeek < 0:
            raise UserError(f"learner.nopeek: must be 0 or more, not {nopeek}")
        self.front, middle, self.head = stages
        self.portion = 1 - portion(middle, stages)
        """Share of the network's parameters that are here."""
        super().__init__(nn.ModuleList([self.front, self.head]), dataset, share, **settings)
        self.partner: SplitServer | None = None
        self._nopeek, self.steps = nopeek, 0
        self._middle = middle.inputs, middle.outputs
        self._image = self.front.inputs[0].name

    def tensors(self) -> dict[str, Tensor]:
        return {**self.front.state(), **self.head.state()}

    def exchanged(self) -> dict[str, Tensor]:
        return crossing(*self._middle)

    def largest_message(self) -> int:
        return largest(self._middle, self._batch_size)

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        """With the partner in this process. Raises UserError where there is none."""
        return self._together(round, self.conversation(round, stop))

    def evaluate(self) -> Evaluation:
        return self._together(0, self.examination())

    def conversation(self, round: int, stop: Stop = never) -> Generator[Ask, Tensors, TrainingReport]:
        """A round of training. Raises ValueError for an answer that is not what was asked for."""
        course, self.steps = self.course(round, None, stop), 0
        self.model.zero_grad(set_to_none=True)  # a conversation that broke off may have left some
        try:
            images, places, share = next(course)
            while True:
                sent = self.front.run({self._image: images})
                answer = yield Ask(Kind.FORWARD, self.steps, outgoing(sent))
                leaves = incoming(answer, self._middle[1], len(images), self.device)
                loss = functional.cross_entropy(only(self.head.run(leaves)), self._labels[places])
                self._optimiser.backward(loss * share)
                pulls = yield Ask(Kind.BACKWARD, self.steps, outgoing(gradients(leaves)))
                self._pull(images, sent, incoming(pulls, real(self._middle[0]), len(images), self.device), share)
                self.steps += 1
                images, places, share = course.send(loss.detach())
        except StopIteration as ended:
            report: TrainingReport = ended.value
            return report

    def examination(self) -> Generator[Ask, Tensors, Evaluation]:
        """On the test images. Raises ValueError for an answer that is not what was asked for."""
        images, labels = self.test_set()
        tally = Tally(self.device)
        self.model.eval()  # training sets its own mode
        for number, start in enumerate(range(0, len(labels), BATCH)):
            part = slice(start, start + BATCH)
            with torch.no_grad():
                sent = self.front.run({self._image: images[part]})
            answer = yield Ask(Kind.EVALUATE, self.steps, outgoing(sent), number)
            with torch.no_grad():
                came = incoming(answer, self._middle[1], len(labels[part]), self.device)
                tally.add(only(self.head.run(came)), labels[part])
        return tally.result()

    def _pull(self, images: Tensor, sent: Tensors, pulls: Tensors, share: float) -> None:
        """The front's gradients: the server's, and those of what the sent tensors tell of the images."""
        roots = [sent[name] for name in pulls if sent[name].requires_grad]
        along: list[Tensor | None] = [pull for name, pull in pulls.items() if sent[name].requires_grad]
        if self._nopeek:
            told = torch.stack([no_peek(images, tensor) for tensor in sent.values() if tensor.requires_grad]).mean()
            roots.append(share * self._nopeek * told)
            along.append(None)
        if roots:
            torch.autograd.backward(roots, along)

    def _together(self, round: int, words: Generator[Ask, Tensors, R]) -> R:
        if self.partner is None:
            raise UserError("the learner 'split' has the ends of a network alone: use algorithm 'split'")
        try:
            ask = next(words)
            while True:
                ask = words.send(self.partner.answer(round, ask))
        except StopIteration as ended:
            result: R = ended.value
            return result


class SplitServer(Trainable):
    """The server: the middle stage, and no image. Its state has the names of the whole network."""

    samples = 0

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        seed: int = 0,
        batch_size: int = 32,
        fresh_optimizer: bool = True,
        classes: int = 0,
        **training: Any,
    ) -> None:
        _, self.middle, _ = stages
        super().__init__(self.middle, **training)
        self.portion = portion(self.middle, stages)
        self._seed, self._batch_size, self._fresh, self._classes = seed, batch_size, fresh_optimizer, classes
        self._random: Tensor | None = None
        self.steps: int | None = None
        """That it has taken since the last round began; None: it has seen none begin."""
        self._open: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        """What came and what was made of it, whose gradients are awaited."""

    def tensors(self) -> dict[str, Tensor]:
        return self.middle.state()

    def exchanged(self) -> dict[str, Tensor]:
        return crossing(self.middle.inputs, self.middle.outputs)

    def largest_message(self) -> int:
        return largest((self.middle.inputs, self.middle.outputs), self._batch_size)

    def class_counts(self) -> list[int]:
        return [0] * self._classes

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        """Raises UserError: without a client it has nothing to learn from."""
        raise UserError("the learner 'split' has the middle of a network alone: use algorithm 'split'")

    def evaluate(self) -> Evaluation:
        """Of no image: what the network is worth is the client's to find out."""
        return Evaluation(loss=None, accuracy=None, samples=0)

    def answer(self, round: int, ask: Ask) -> dict[str, Tensor]:
        """Blocking. Step 0 of FORWARD begins a round. Raises OutOfStep, and ValueError for tensors that cannot be."""
        if ask.kind is Kind.FORWARD and ask.step == 0:
            self._begin(round)
        if ask.step != self.steps or (ask.kind is Kind.BACKWARD) is not (self._open is not None):
            raise OutOfStep(f"{ask.kind.value} after {ask.step} steps of round {round}, where {self.steps} were taken")
        if ask.kind is Kind.BACKWARD:
            return self._back(ask.tensors)
        count = len(next(iter(ask.tensors.values()), ()))
        came = incoming(ask.tensors, self.middle.inputs, count, self.device)
        if ask.kind is Kind.EVALUATE:
            self.middle.eval()
            with torch.no_grad():
                return outgoing(self.middle.run(came))
        self.middle.train()
        with self._drawing():
            made = self.middle.run(came)
        self._open = came, made
        return outgoing(made)

    def _back(self, tensors: Tensors) -> dict[str, Tensor]:
        assert self._open is not None
        came, made = self._open
        pulls = incoming(tensors, real(self.middle.outputs), len(next(iter(made.values()))), self.device)
        names = [name for name in pulls if made[name].requires_grad]
        if names:
            torch.autograd.backward([made[name] for name in names], [pulls[name] for name in names])
        self._optimiser.step()
        self._open, self.steps = None, (self.steps or 0) + 1
        return outgoing(gradients(came))

    def load(self, parameters: State) -> None:
        """What was under way is forgotten."""
        super().load(parameters)
        self.steps = self._open = None

    def _begin(self, round: int) -> None:
        self.steps, self._open = 0, None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, "train", SERVER, round))
            self._random = torch.get_rng_state()
        if self._fresh:
            self._optimiser = self._new_optimiser()
        self._slow_down(round)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """What is drawn here goes on from the last batch of the round, and from nothing that others draw."""
        with torch.random.fork_rng(devices=[]):
            if self._random is not None:
                torch.set_rng_state(self._random)
            yield
            self._random = torch.get_rng_state()


def split(
    model: nn.Module,
    dataset: LabelledImages,
    share: Indices,
    *,
    cuts: Sequence[str],
    nopeek: float | int = 0.0,
    matching_samples: int = 0,
    proxy: Indices | None = None,
    evaluation_samples: int | None = None,
    **settings: Unpack[Settings],
) -> SplitClient | SplitServer:
    """The learner `split`, peer 0 as the client and peer 1 as the server.

    `cuts`: two modules, the last of the front and the last of the middle. Raises UserError for cuts that cannot be, for
    a network that shares parameters over a cut or is another one in training, and for arithmetic in 16 bits.
    """
    if len(cuts) != 2:
        raise UserError(f"learner.cuts: two modules, after which the server begins and ends, not {list(cuts)}")
    if settings.get("precision", "float32") != "float32":
        raise UserError("training.precision: the learner 'split' computes in float32")
    if not alike(trace(model).graph, trace(model, training=True).graph):
        raise UserError("learner.cuts: the network computes something else in training, which its stages would not")
    stages = split_network(model, list(cuts), torch.zeros(2, *dataset.image_shape))
    if tied := sorted(name for stage in stages for name in stage.shared):
        raise UserError(f"learner.cuts: {tied[0]} is needed on both sides of a cut, where two copies would drift apart")
    if settings.get("peer", CLIENT) == CLIENT:
        return SplitClient(
            stages, dataset, share, nopeek=float(nopeek), evaluation_samples=evaluation_samples, **settings
        )
    told = {name: value for name, value in settings.items() if name in SERVERS}
    return SplitServer(stages, classes=dataset.classes, **cast(Any, told))


def portion(stage: Stage, stages: Sequence[Stage]) -> float:
    """The share of a network's parameters that a stage holds."""
    sizes = {id(each): sum(parameter.numel() for parameter in each.parameters()) for each in stages}
    return sizes[id(stage)] / max(1, sum(sizes.values()))


def crossing(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, Tensor]:
    """Empty tensors that are named, typed and shaped as what crosses: what both peers compare when they meet."""
    ports = {**{f"in/{port.name}": port for port in inputs}, **{f"out/{port.name}": port for port in outputs}}
    return {name: torch.empty((0, *port.shape[1:]), dtype=port.dtype) for name, port in ports.items()}


def largest(ends: tuple[Sequence[Port], Sequence[Port]], batch_size: int) -> int:
    """Bytes of the largest message: a batch of training has an image more where the last would be alone."""
    rows = max(batch_size + 1, BATCH)
    return rows * max(sum(port.dtype.itemsize * torch.Size(port.shape[1:]).numel() for port in end) for end in ends)


def real(ports: Sequence[Port]) -> list[Port]:
    """Those that have gradients."""
    return [port for port in ports if port.dtype.is_floating_point]


def outgoing(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def incoming(tensors: Tensors, ports: Sequence[Port], count: int, device: torch.device) -> dict[str, Tensor]:
    """What came, as leaves whose gradients are kept; in the order of the ports.

    Raises ValueError where it is not `count` rows of what the ports take, or not finite.
    """
    if tensors.keys() != {port.name for port in ports}:
        raise ValueError(f"tensors {sorted(tensors)}, not {sorted(port.name for port in ports)}")
    found = {}
    for port in ports:
        tensor, shape = tensors[port.name], (count, *port.shape[1:])
        if tuple(tensor.shape) != shape or tensor.dtype != port.dtype or not count:
            raise ValueError(f"{port.name}: {tensor.dtype} {list(tensor.shape)}, not {port.dtype} {list(shape)}")
        if not finite(tensor):
            raise ValueError(f"{port.name}: not finite")
        found[port.name] = tensor.detach().to(device).requires_grad_(port.dtype.is_floating_point)
    return found


def gradients(leaves: Tensors) -> dict[str, Tensor]:
    """Of real numbers; zeros where nothing depended on a tensor."""
    return {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
        if leaf.is_floating_point()
    }


def only(tensors: Mapping[str, Float[Tensor, "b classes"]]) -> Float[Tensor, "b classes"]:
    """The logits: the one tensor that the last stage gives."""
    [logits] = tensors.values()
    return logits
