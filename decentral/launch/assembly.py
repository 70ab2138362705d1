"""From a recipe to the parts of one peer, the same in every world."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from decentral.algorithms.base import Algorithm, Journal, Keeper, Layout, Pace, Peer, Publisher, Schedule, recall
from decentral.algorithms.baton import packed_with_baton
from decentral.algorithms.catalogue import ALGORITHMS, DRAWING, SERVED
from decentral.algorithms.crowd import Crowd, Sampling
from decentral.algorithms.presence import Deadlines, Member, Roster
from decentral.algorithms.session import Session
from decentral.core.encodings import ENCODINGS, Encoding
from decentral.core.outer import OUTERS, Outer
from decentral.core.rules import RULES
from decentral.core.seeds import derive_seed
from decentral.data.partition import subset, with_proxy
from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.launch.attackers import as_told, attack_of, lying
from decentral.launch.latents import seen
from decentral.launch.plan import Plan
from decentral.launch.shares import data_of, holding
from decentral.models.catalogue import build_model
from decentral.run.directory import RunDirectory, peer_name
from decentral.run.recipe import Recipe
from decentral.training.attacks import AttackingLearner, PoisonedImages
from decentral.training.catalogue import LEARNERS
from decentral.training.checkpoint import Checkpoint, Checkpoints
from decentral.training.learner import Learner, State
from decentral.wire.clock import Clock
from decentral.wire.elements import schema_hash
from decentral.wire.identity import Identity
from decentral.wire.limits import Limits
from decentral.wire.messages import MembershipRecord, MembershipStatus, PeerId, Traffic
from decentral.wire.transport import Transport

if TYPE_CHECKING:
    from decentral.training.diffusion import NoisedTraining


class Signer:
    """Signs a peer's membership records. The counter is kept in a file, so that a restarted peer outranks its past."""

    def __init__(self, identity: Identity, counter_file: Path) -> None:
        self._identity = identity
        self._file = counter_file
        self._counter = int(counter_file.read_text()) if counter_file.exists() else 0

    def record(self, status: MembershipStatus, address: str, first_round: int) -> MembershipRecord:
        self._counter += 1
        self._keep()
        return self._identity.record(status, self._counter, address, first_round)

    def _keep(self) -> None:
        """Before the record is out: a counter that was used is never used again."""
        write_atomic(self._file, str(self._counter).encode())


class SimulatedSigner(Signer):
    """Keeps its counter in memory, which simulated crashes do not touch, and writes it down at the end."""

    def _keep(self) -> None:
        """See `close`."""

    def close(self) -> None:
        if self._counter:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(str(self._counter))


def assemble_learner(recipe: Recipe, index: int) -> Learner:
    """The model of peer `index` with its share of the data, and a liar around it where the recipe has one. Blocking.

    Raises UserError where the recipe asks for what the data or the model cannot give.
    """
    return as_told(recipe, index, own_learner(recipe, index))


def own_learner(recipe: Recipe, index: int) -> Learner:
    """The same without what a liar makes of it: its data alone may be poisoned already."""
    torch.set_num_threads(recipe.threads)
    make = LEARNERS.resolve(recipe.learner.name)
    if getattr(make, "without_data", False):
        alone: Learner = make(index, recipe.seed, **recipe.learner.options)
        return alone
    source, data = recipe.data, data_of(recipe)
    labels, proxy = data.train_labels, None
    if recipe.matching.data == "proxy":
        chosen, proxy = with_proxy(labels, source.subset, recipe.matching.samples, recipe.seed)
    else:
        chosen = subset(labels, source.subset, recipe.seed)
    held = holding(recipe, data, chosen, index)
    ensemble = {} if held.assignment is None else {"assignment": held.assignment, "clusters": held.clusters}
    attack = attack_of(recipe, index)
    images = seen(recipe, PoisonedImages(data, attack) if attack is not None and attack.poisons else data)
    whose = () if recipe.training.initialisation == "common" else (index,)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "initialisation", *whose))
        model = build_model(recipe.model.name, images.image_shape, images.classes, **recipe.model.options)
    learner: Learner = make(
        model=model,
        dataset=images,
        share=held.share,
        peer=index,
        seed=recipe.seed,
        device=recipe.device,
        matching_samples=recipe.matching.samples,
        proxy=proxy,
        evaluation_samples=recipe.evaluation.samples,
        augment=recipe.data.augment,
        **recipe.training.model_dump(exclude={"initialisation", "start_from"}),
        **recipe.learner.options,
        **ensemble,
    )
    if recipe.training.start_from is not None:
        try:
            learner.load(earlier_model(Path(recipe.training.start_from), index))
        except ValueError as error:
            raise UserError(f"training.start_from: {error}") from error
    return learner


def earlier_model(folder: Path, index: int) -> dict[str, Tensor]:
    """The newest model of peer `index` in another run's checkpoints. Raises UserError where there is none."""
    saved = Checkpoints(folder.expanduser(), peer_name(index)).trained()
    if saved is None:
        raise UserError(f"training.start_from: {folder} holds no checkpoint of {peer_name(index)}")
    return saved.state


def limits_for(learner: Learner, recipe: Recipe) -> Limits:
    """What a peer takes from another one: models of its own schema, as they are or as the recipe has them packed, and
    so of known sizes, and news of all peers; where batches travel, what is no larger than the largest of them."""
    if (largest := getattr(learner, "largest_message", None)) is not None:  # batches of any number of rows
        return Limits(model_bytes=largest(), records=recipe.peers)
    state, write = exchanged_by(learner), encoding_of(recipe)
    packed = [form(state, state, torch.Generator()) for form in (write, write.whole)]
    outer = recipe.averaging.outer is not None
    if recipe.algorithm in DRAWING and (outer or write.whole is not write):
        packed.append(packed_with_baton(packed[-1], trail=outer))
    size = max(sum(tensor.nbytes for tensor in tensors.values()) for tensors in (state, *packed))
    return Limits(
        model_bytes=size, records=recipe.peers, schema=schema_hash(state), packed=frozenset(map(schema_hash, packed))
    )


def exchanged_by(learner: Learner) -> State:
    """What the models look like that this peer takes: as its own, unless it says otherwise."""
    taken: Callable[[], State] = getattr(learner, "exchanged", learner.view)
    return taken()


def agreed(recipe: Recipe, learner: Learner) -> str:
    """What peers compare when they meet: the recipe's hash and, in an ensemble, the digest of who has which images."""
    assignment = getattr(learner, "assignment", None)
    if assignment is None:
        return recipe.hash
    return hashlib.sha256(f"{recipe.hash} {assignment.digest}".encode()).hexdigest()


def publisher_of(recipe: Recipe, learner: Learner, directory: RunDirectory | None, name: str) -> Publisher | None:
    """Of learners that leave more than checkpoints behind."""
    published: bool = getattr(learner, "published", False)
    if recipe.algorithm in SERVED and not published:
        raise UserError(f"learner: algorithm {recipe.algorithm!r} needs 'diffusion', not {recipe.learner.name!r}")
    if directory is None or not published:
        return None
    elsewhere: Callable[[Path, Path], Publisher] | None = getattr(learner, "publisher", None)
    if elsewhere is not None:
        return elsewhere(directory.path, directory.node(name))
    from decentral.launch.publish import EnsemblePublisher  # imports diffusers

    return EnsemblePublisher(directory.path, directory.node(name), cast("NoisedTraining", learner))


def encoding_of(recipe: Recipe) -> Encoding:
    """How peers of this recipe write their models."""
    chosen = recipe.exchange.compression
    encoding: Encoding = ENCODINGS.construct(chosen.name, **chosen.options)
    return encoding


def outer_of(recipe: Recipe) -> Outer | None:
    """What the recipe makes of averages; None: they are taken as they are."""
    chosen = recipe.averaging.outer
    outer: Outer | None = None if chosen is None else OUTERS.construct(chosen.name, **chosen.options)
    return outer


def sampling_of(recipe: Recipe) -> Sampling:
    """What the recipe says of samples, with its defaults worked out for this number of peers."""
    said, peers = recipe.sampling, recipe.peers
    size = recipe.sample
    enough = max(1, math.ceil(said.success * size))
    return Sampling(
        size=size,
        aggregators=said.aggregators,
        success=said.success,
        floor=math.ceil(enough / 2) if said.floor is None else said.floor,
        window=max(20, math.ceil(10 * peers / size)) if said.window is None else said.window,
        ping=said.ping,
        patience=said.patience,
        look=said.patience * max(3.0, peers / size) if said.look is None else said.look,
        seed=recipe.seed,
    )


def assemble_algorithm(recipe: Recipe) -> Algorithm:
    said = {"epidemic": recipe.epidemic, "fedavg": recipe.fedavg}.get(recipe.algorithm)
    options = {} if said is None else said.model_dump()
    algorithm: Algorithm = ALGORITHMS.resolve(recipe.algorithm)(**options)
    return algorithm


@dataclass(frozen=True, slots=True)
class Start:
    """Where a peer begins: the last round it finished, its clock then, the bytes sent, its algorithm's memory."""

    finished: int = 0
    time: float = 0.0
    sent: Mapping[Traffic, int] | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class Shelf(Keeper, Protocol):
    """Where a peer keeps its checkpoints and finds them again."""

    def rounds(self) -> list[int]: ...

    def load(self, round: int | None = None) -> Checkpoint | None: ...


class MemoryShelf:
    """The newest checkpoint of a simulated peer whose state is not worth a file; crashes leave it alone."""

    def __init__(self) -> None:
        self._newest: Checkpoint | None = None

    def rounds(self) -> list[int]:
        return [] if self._newest is None else [self._newest.round]

    def load(self, round: int | None = None) -> Checkpoint | None:
        return self._newest

    def save(
        self, round: int, state: Mapping[str, Tensor], metadata: Mapping[str, str], optimizer: Mapping[str, Tensor]
    ) -> None:
        kept = ({name: tensor.clone() for name, tensor in tensors.items()} for tensors in (state, optimizer))
        self._newest = Checkpoint(round, next(kept), dict(metadata), next(kept))


def restore(checkpoints: Shelf, learner: Learner, round: int | None, *, together: bool = True) -> Start:
    """Loads the newest checkpoint, or the newest up to `round`, into a learner. Blocking.

    With `round` the whole run goes on from there, so it counts as finished whatever this peer had on disk, unless peers
    do not go on `together`: where they are drawn, each goes on from what it has.
    """
    known = [saved for saved in checkpoints.rounds() if round is None or saved <= round]
    saved = checkpoints.load(None if round is None else known[-1]) if known else None
    if saved is None:
        return Start((round or 0) if together else 0)
    learner.load(saved.state)
    memory = recall(learner, saved.optimizer)
    sent = {kind: int(saved.metadata[f"bytes_{kind.value}"]) for kind in Traffic}
    return Start(saved.round if round is None or not together else round, float(saved.metadata["time"]), sent, memory)


@contextlib.asynccontextmanager
async def open_peer(
    *,
    recipe: Recipe,
    plan: Plan,
    index: int,
    roster: Roster | Collection[Member],
    algorithm: Algorithm,
    learner: Learner,
    transport: Transport,
    clock: Clock,
    journal: Journal,
    checkpoints: Keeper,
    signer: Signer,
    pace: Pace | None = None,
    directory: RunDirectory | None = None,
    revoked: Callable[[], Collection[PeerId]] = frozenset,
) -> AsyncIterator[Peer]:
    """A peer whose session is open: others can already reach it, but it has not greeted them yet.

    `pace` is this peer's own in the simulator; None: the recipe's, which is everybody's. `directory` is the run's, for
    what is left there beside checkpoints. `revoked`: who counts no more, of those whom the authority let in.
    """
    roster = roster if isinstance(roster, Roster) else Roster(roster)
    if isinstance(learner, AttackingLearner):
        transport = lying(transport, learner, recipe, roster, encoding_of(recipe).whole)
    partners = algorithm.partners(index, plan.peers[index].neighbours, recipe.peers)
    newest: frozenset[str] = getattr(algorithm, "newest", frozenset())
    among = partial(Session, newest, partners=partners)
    meet = partial(Crowd, sampling=sampling_of(recipe), revoked=revoked) if partners is None else among
    presence: Session | Crowd = meet(
        index=index,
        roster=roster,
        transport=transport,
        clock=clock,
        journal=journal,
        signer=signer,
        deadlines=Deadlines(recipe.deadlines.round, recipe.deadlines.probe, recipe.deadlines.call),
        recipe_hash=agreed(recipe, learner),
        schema_hash=schema_hash(exchanged_by(learner)),
        rounds=recipe.rounds,
    )
    schedule = Schedule(
        rounds=recipe.rounds,
        evaluate_every=recipe.evaluation.every,
        checkpoint_every=recipe.checkpoint.every,
        epochs=recipe.training.epochs,
        steps=recipe.training.steps,
        batch_size=recipe.training.batch_size,
        pretrain_epochs=recipe.training.pretrain_epochs,
    )
    async with presence.open():
        yield Peer(
            index=index,
            weights=plan.peers[index].weights,
            presence=presence,
            clock=clock,
            learner=learner,
            journal=journal,
            keeper=checkpoints,
            schedule=schedule,
            pace=pace or Pace(recipe.simulation.samples_per_second),
            layout=Layout(recipe.peers, recipe.topology.name, plan.edges, recipe.seed),
            matching_method=recipe.matching.method,
            matching_statistics=recipe.matching.statistics,
            matching_repair=recipe.matching.repair,
            rule=RULES.construct(recipe.averaging.rule.name, **recipe.averaging.rule.options),
            batchnorm=recipe.averaging.batchnorm,
            encoding=encoding_of(recipe),
            outer=outer_of(recipe),
            publisher=publisher_of(recipe, learner, directory, peer_name(index)),
        )


async def take_part(
    peer: Peer, algorithm: Algorithm, start: Start, *, running: bool, at_end: Callable[[], None] = lambda: None
) -> None:
    """From the greeting to the last round. `running`: the others went on while this peer was away.

    `at_end`: done before it says that it has finished.
    """
    arrived = await peer.presence.join(start.finished, running)
    peer.finished = start.finished if getattr(algorithm, "apart", False) else arrived
    peer.memory = dict(start.memory)
    if start.sent is not None:
        peer.transport.traffic.sent.update(start.sent)
    peer.journal.record("started", round=peer.finished, resumed=start.finished > 0, rejoined=running)
    peer.journal.record("data", samples=peer.learner.samples, classes=peer.learner.class_counts())
    await peer.clock.sleep(max(start.time - peer.clock.now(), 0.0))
    await algorithm.run(peer)
    at_end()
    peer.journal.record("finished", round=peer.finished, bytes=peer.transport.traffic.as_dict())
