"""What a recipe's types cannot say: that its names exist, and what its keys need of one another.

Nothing heavy is imported.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.run.options import check_name, check_options, check_torchvision

if TYPE_CHECKING:
    from decentral.run.recipe import Recipe
    from decentral.run.source import Document, Key


def check(recipe: Recipe, document: Document) -> None:
    """Raises RecipeError, placed by `document`, at the first name, option or topology that cannot be."""
    from decentral.algorithms.catalogue import ALGORITHMS
    from decentral.core.topology import TOPOLOGIES
    from decentral.data.datasets import DATASETS
    from decentral.data.partition import PARTITIONS
    from decentral.models.catalogue import MODELS
    from decentral.training.catalogue import LEARNERS
    from decentral.wire.traces import TRACES

    check_name(ALGORITHMS, recipe.algorithm, document, ("algorithm",))
    check_name(LEARNERS, recipe.learner.name, document, ("learner", "name"))
    check_options(LEARNERS, recipe.learner, 0, document, ("learner",), ours=_supplied(recipe))
    check_name(DATASETS, recipe.data.name, document, ("data", "name"))
    check_options(DATASETS, recipe.data, 3, document, ("data", "options"))
    check_name(PARTITIONS, recipe.data.partition.name, document, ("data", "partition", "name"))
    check_options(PARTITIONS, recipe.data.partition, 3, document, ("data", "partition"), ours=frozenset({"look"}))
    if not check_torchvision(recipe.model.name, document):
        check_options(MODELS, recipe.model, 2, document, ("model",))
    check_name(TOPOLOGIES, recipe.topology.name, document, ("topology", "name"))
    check_options(TOPOLOGIES, recipe.topology, 2, document, ("topology",))
    if (trace := recipe.simulation.trace) is not None:
        check_name(TRACES, trace.name, document, ("simulation", "trace", "name"))
        check_options(TRACES, trace, 3, document, ("simulation", "trace"))
    _buildable(recipe, document)
    _drawable(recipe, document)
    _averageable(recipe, document)
    _compressible(recipe, document)
    _steppable(recipe, document)
    _attackable(recipe, document)
    _divisible(recipe, document)
    _splittable(recipe, document)


def _supplied(recipe: Recipe) -> frozenset[str]:
    """What a learner's constructor gets from us by name, and so is no option of it."""
    ours = {"model", "dataset", "share", "peer", "seed", "device", "matching_samples", "proxy", "evaluation_samples"}
    return frozenset({*ours, "augment", "assignment", "clusters", *type(recipe.training).model_fields})


def _buildable(recipe: Recipe, document: Document) -> None:
    from decentral.core import topology

    try:
        topology.build(recipe.topology.name, recipe.peers, recipe.seed, **recipe.topology.options)
    except UserError as error:
        raise document.error(str(error), ("topology",)) from None


def _averageable(recipe: Recipe, document: Document) -> None:
    """The rule exists, is possible, and has models enough to find out who lies."""
    from decentral.algorithms.catalogue import MEAN_ALONE
    from decentral.core.rules import RULES

    choice, key = recipe.averaging.rule, ("averaging", "rule")
    check_name(RULES, choice.name, document, (*key, "name"))
    check_options(RULES, choice, 0, document, key)
    try:
        fewest = RULES.construct(choice.name, **choice.options).fewest
    except UserError as error:
        raise document.error(str(error), key) from None
    if choice.name != "mean" and (why := MEAN_ALONE.get(recipe.algorithm)) is not None:
        raise document.error(f"{choice.name!r} does not go with algorithm {recipe.algorithm!r}: {why}", key)
    models = _models_averaged(recipe) if fewest > 1 else None
    if models is not None and models < fewest:
        raise document.error(
            f"{choice.name!r} needs {fewest} models or more to find out who lies; "
            f"with algorithm {recipe.algorithm!r} and topology {recipe.topology.name!r} a peer averages {models}",
            key,
        )


def _compressible(recipe: Recipe, document: Document) -> None:
    """The compression exists, is possible, and its algorithm works with what the receivers read."""
    from decentral.algorithms.catalogue import EXACT_ALONE, WHOLE_ALONE
    from decentral.core.encodings import ENCODINGS

    choice, key = recipe.exchange.compression, ("exchange", "compression")
    check_name(ENCODINGS, choice.name, document, (*key, "name"))
    check_options(ENCODINGS, choice, 0, document, key)
    try:
        encoding = ENCODINGS.construct(choice.name, **choice.options)
    except UserError as error:
        raise document.error(str(error), key) from None
    if encoding.plain:
        return
    why = EXACT_ALONE.get(recipe.algorithm)
    if encoding.whole is not encoding:
        why = why or WHOLE_ALONE.get(recipe.algorithm)
        _from_the_last_aggregate(recipe, document, choice.name, key)
    if why is not None:
        raise document.error(f"{choice.name!r} does not go with algorithm {recipe.algorithm!r}: {why}", key)
    if recipe.learner.name == "null":
        raise document.error("the learner 'null' has no model; its model_bytes says what one would be", key)


def _steppable(recipe: Recipe, document: Document) -> None:
    """The outer optimiser exists, is possible, and there is an aggregate from which it goes on."""
    from decentral.algorithms.catalogue import NO_AGGREGATE
    from decentral.core.outer import OUTERS

    choice, key = recipe.averaging.outer, ("averaging", "outer")
    if choice is None:
        return
    check_name(OUTERS, choice.name, document, (*key, "name"))
    check_options(OUTERS, choice, 0, document, key)
    try:
        OUTERS.construct(choice.name, **choice.options)
    except UserError as error:
        raise document.error(str(error), key) from None
    if (why := NO_AGGREGATE.get(recipe.algorithm)) is not None:
        raise document.error(f"{choice.name!r} does not go with algorithm {recipe.algorithm!r}: {why}", key)
    _from_the_last_aggregate(recipe, document, choice.name, key)


def _from_the_last_aggregate(recipe: Recipe, document: Document, what: str, key: Key) -> None:
    """All begin with the same; where a participant hands on the last one, no rule is thought to protect from it."""
    if recipe.algorithm not in ("fedavg", "modest"):
        return
    if recipe.algorithm == "modest" and (rule := recipe.averaging.rule.name) != "mean":
        why = "an aggregator hears of the last aggregate from one participant, whom no rule judges"
        raise document.error(f"{what!r} does not go with algorithm 'modest' and rule {rule!r}: {why}", key)
    said = recipe.training
    for name, given in (
        ("initialisation", said.initialisation != "common"),
        ("start_from", said.start_from is not None),
        ("pretrain_epochs", said.pretrain_epochs > 0),
    ):
        if given:
            raise document.error(f"with {what!r} all peers have to begin with the same model", ("training", name))


def _models_averaged(recipe: Recipe) -> int | None:
    """Models in the smallest average that anybody takes, its own among them; None for an algorithm of the user's."""
    from decentral.core import topology

    match recipe.algorithm:
        case "dpsgd":
            graph = topology.build(recipe.topology.name, recipe.peers, recipe.seed, **recipe.topology.options)
            return 1 + min(degree for _, degree in graph.degree)
        case "fedavg":
            return recipe.fedavg.clients or recipe.peers
        case "gossip":
            return 2
        case "epidemic":
            return 1 + recipe.epidemic.fanout if recipe.epidemic.regular else 1
        case "modest":
            return max(1, math.ceil(recipe.sampling.success * recipe.sample))
        case _:
            return None


def _drawable(recipe: Recipe, document: Document) -> None:
    """There are as many peers as are to be drawn, and as many participants of a round as are to average."""
    from decentral.algorithms.catalogue import DRAWING

    if recipe.algorithm == "epidemic" and (fanout := recipe.epidemic.fanout) > max(1, recipe.peers - 1):
        raise document.error(f"{fanout} is more than the {recipe.peers - 1} other peers", ("epidemic", "fanout"))
    if recipe.algorithm == "fedavg" and (clients := recipe.fedavg.clients or 1) > recipe.peers:
        raise document.error(f"{clients} is more than the {recipe.peers} peers of the run", ("fedavg", "clients"))
    if recipe.algorithm not in DRAWING:
        return
    said, enough = recipe.sampling, math.ceil(recipe.sampling.success * recipe.sample)
    for name, value, limit, of in (
        ("size", recipe.sample, recipe.peers, "peers of the run"),
        ("aggregators", said.aggregators, recipe.sample, "participants of a round"),
        ("floor", said.floor or 1, enough, "models that an aggregator waits for"),
    ):
        if value > limit:
            raise document.error(f"{value} is more than the {limit} {of}", ("sampling", name))


def _divisible(recipe: Recipe, document: Document) -> None:
    """Experts are as many as a pipeline can have, and learn by diffusion."""
    from decentral.algorithms.catalogue import SERVED
    from decentral.data.clusters import MOST
    from decentral.models.catalogue import DENOISERS
    from decentral.training.catalogue import DENOISING

    learner, experts = recipe.learner.name, recipe.algorithm in SERVED
    if learner in DENOISING and recipe.model.name not in DENOISERS:
        names = " and ".join(sorted(DENOISERS))
        raise document.error(f"the learner {learner!r} trains {names}, not {recipe.model.name!r}", ("model", "name"))
    if (experts and learner != "diffusion") or (learner not in DENOISING and recipe.model.name in DENOISERS):
        what = f"algorithm {recipe.algorithm!r}" if experts else f"the model {recipe.model.name!r}"
        raise document.error(f"{what} needs the learner 'diffusion'", ("learner", "name"))
    if not experts:
        return
    if not 2 <= recipe.peers <= MOST + 1:
        problem = f"{recipe.peers}: one peer trains the router, and 1 to {MOST} train an expert each"
        raise document.error(problem, ("peers",))
    if recipe.attack is not None:
        raise document.error("experts exchange nothing that could be defended while they train", ("attack",))


def _splittable(recipe: Recipe, document: Document) -> None:
    """Two peers hold one network, and the learner of either is made for that."""
    from decentral.algorithms.catalogue import SPLIT
    from decentral.training.catalogue import SPLITTING

    algorithm, learner = recipe.algorithm, recipe.learner.name
    if (algorithm in SPLIT) is not (learner in SPLITTING):
        problem = f"algorithm {algorithm!r} does not go with the learner {learner!r}: 'split' needs both"
        raise document.error(problem, ("learner", "name"))
    if algorithm not in SPLIT:
        return
    training = recipe.training
    for key, given, problem in (
        (("peers",), recipe.peers != 2, f"{recipe.peers}: one peer is the client, and one the server"),
        (("data", "partition"), recipe.data.partition.name != "iid", "the client has all the images"),
        (("attack",), recipe.attack is not None, "the client and the server exchange no models"),
        (("training", "pretrain_epochs"), training.pretrain_epochs > 0, "neither can train alone"),
        (("training", "precision"), training.precision != "float32", "split learning computes in float32"),
    ):
        if given:
            raise document.error(problem, key)


def _attackable(recipe: Recipe, document: Document) -> None:
    """The attack exists, its options are possible, and so are the peers who are told to do it."""
    from decentral.core.attacks import ATTACKS

    if (choice := recipe.attack) is None:
        return
    check_name(ATTACKS, choice.name, document, ("attack", "name"))
    check_options(ATTACKS, choice, 0, document, ("attack",))
    try:
        attack = ATTACKS.construct(choice.name, **choice.options)
    except UserError as error:
        raise document.error(str(error), ("attack",)) from None
    try:
        recipe.attackers  # noqa: B018 - looked up for its errors
    except UserError as error:
        raise document.error(str(error), ("attack", "peers")) from None
    if attack.poisons and choice.from_round > 1:
        raise document.error(f"{choice.name!r} is in the data, and so there from round 1 on", ("attack", "from_round"))
    if attack.listens and recipe.algorithm in ("fedavg", "isolated"):
        problem = f"{choice.name!r} needs the models of others, which a peer of {recipe.algorithm!r} never sees"
        raise document.error(problem, ("attack", "name"))
