"""The parts of a peer follow from the recipe and its index: the same in every world, other shares at every peer."""

from __future__ import annotations

import contextlib

import pytest
import torch

from decentral.algorithms.base import MEMORY
from decentral.core.encodings import ENCODINGS
from decentral.errors import UserError
from decentral.launch.assembly import (
    MemoryShelf,
    Signer,
    SimulatedSigner,
    Start,
    assemble_algorithm,
    assemble_learner,
    encoding_of,
    limits_for,
    restore,
)
from decentral.run.recipe import load_recipe
from decentral.training.attacks import AttackingLearner
from decentral.training.checkpoint import Checkpoints
from decentral.training.null import NullLearner
from decentral.wire.elements import schema_hash
from decentral.wire.identity import Identity, verify_record
from decentral.wire.messages import MembershipStatus, Traffic

SMALL = ("peers=3", "model={name: mlp, hidden: [8]}")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_common_initialisation_is_common_and_a_separate_one_is_not():
    recipe = load_recipe("dimat-digits", SMALL)
    assert same(assemble_learner(recipe, 0).parameters(), assemble_learner(recipe, 1).parameters())
    apart = load_recipe("dimat-digits", (*SMALL, "training.initialisation=separate"))
    assert not same(assemble_learner(apart, 0).parameters(), assemble_learner(apart, 1).parameters())
    assert same(assemble_learner(apart, 1).parameters(), assemble_learner(apart, 1).parameters())


def test_building_a_learner_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assemble_learner(load_recipe("dimat-digits", SMALL), 0)
    assert torch.equal(torch.rand(3), expected)


def test_all_shares_together_are_the_training_set():
    recipe = load_recipe("dimat-digits", SMALL)
    assert sum(assemble_learner(recipe, index).samples for index in range(3)) == 1442


def test_a_proxy_set_is_the_same_for_every_peer_and_in_nobodys_share():
    recipe = load_recipe("dimat-digits", (*SMALL, "matching={data: proxy, samples: 50}"))
    learners = [assemble_learner(recipe, index) for index in range(3)]
    assert sum(learner.samples for learner in learners) == 1442 - 50
    batches = [torch.cat(list(learner.matching_batches())) for learner in learners]
    assert len(batches[0]) == 50
    assert torch.equal(batches[0], batches[1]) and torch.equal(batches[0], batches[2])


def test_evaluation_can_be_of_some_of_the_test_images():
    recipe = load_recipe("dimat-digits", (*SMALL, "evaluation.samples=40"))
    assert assemble_learner(recipe, 0).evaluate().samples == 40


def test_grayscale_images_are_seen_by_a_network_of_torchvisions():
    gray = ("peers=3", "model=squeezenet1_1", "data.channels=3", "data.subset=30")
    learner = assemble_learner(load_recipe("dimat-digits-apart", (*gray, "training.pretrain_epochs=0")), 0)
    assert next(iter(learner.matching_batches())).shape[1:] == (3, 8, 8)
    with pytest.raises(UserError, match=r"set data\.channels: 3"):
        assemble_learner(load_recipe("dimat-digits", ("model=squeezenet1_1",)), 0)


def test_an_option_that_a_model_does_not_have_is_named():
    with pytest.raises(UserError, match="hiden"):
        assemble_learner(load_recipe("dimat-digits", ("model={name: mlp, hiden: [8]}",)), 0)


def test_an_algorithm_is_built_for_each_peer():
    recipe = load_recipe("dimat-digits", SMALL)
    assert assemble_algorithm(recipe) is not assemble_algorithm(recipe)


def test_a_signers_counter_outlives_it(tmp_path):
    identity = Identity.generate()
    first = Signer(identity, tmp_path / "counter").record(MembershipStatus.JOIN, "here:1", 1)
    second = Signer(identity, tmp_path / "counter").record(MembershipStatus.JOIN, "here:1", 4)
    verify_record(second)
    assert (first.counter, second.counter) == (1, 2)


def test_a_restored_peer_starts_where_its_checkpoint_ends(tmp_path):
    recipe = load_recipe("dimat-digits", SMALL)
    saved, fresh = assemble_learner(recipe, 0), assemble_learner(recipe, 0)
    saved.train(1)
    shelf = Checkpoints(tmp_path, "peer-0", keep=2)
    sent = {f"bytes_{kind.value}": "7" for kind in Traffic}
    shelf.save(3, saved.parameters(), {"time": "1.5", "bytes_total": "21", **sent})
    start = restore(shelf, fresh, None)
    assert (start.finished, start.time, start.sent) == (3, 1.5, dict.fromkeys(Traffic, 7))
    assert same(saved.parameters(), fresh.parameters())


def test_a_restored_peer_gets_its_algorithms_memory_and_the_learner_its_optimisers(tmp_path):
    recipe = load_recipe("dimat-digits", (*SMALL, "training.fresh_optimizer=false"))
    saved, fresh = assemble_learner(recipe, 0), assemble_learner(recipe, 0)
    saved.train(1)
    shelf = Checkpoints(tmp_path, "peer-0")
    memory = {f"{MEMORY}correction": torch.ones(3)}
    sent = {f"bytes_{kind.value}": "7" for kind in Traffic}
    shelf.save(1, saved.parameters(), {"time": "1.5", **sent}, {**saved.optimizer_state(), **memory})
    start = restore(shelf, fresh, None)
    assert start.memory.keys() == {"correction"} and start.memory["correction"].tolist() == [1.0] * 3
    assert same(saved.optimizer_state(), fresh.optimizer_state())


def test_a_peer_can_start_from_its_own_model_of_another_run(tmp_path):
    recipe = load_recipe("dimat-digits", (*SMALL, f"training.start_from={tmp_path}"))
    earlier = [assemble_learner(load_recipe("dimat-digits", SMALL), index) for index in range(2)]
    for index, learner in enumerate(earlier):
        learner.train(1)
        Checkpoints(tmp_path, f"peer-{index}").save(4, learner.parameters(), {})
    for index in range(2):
        assert same(assemble_learner(recipe, index).parameters(), earlier[index].parameters())
    with pytest.raises(UserError, match=r"training.start_from: .* holds no checkpoint of peer-2"):
        assemble_learner(recipe, 2)


def test_a_start_from_another_network_is_refused_by_name(tmp_path):
    other = assemble_learner(load_recipe("dimat-digits", ("model={name: mlp, hidden: [9]}",)), 0)
    Checkpoints(tmp_path, "peer-0").save(1, other.parameters(), {})
    with pytest.raises(UserError, match=r"training.start_from: tensor '.*' is .*9.*, not .*8"):
        assemble_learner(load_recipe("dimat-digits", (*SMALL, f"training.start_from={tmp_path}")), 0)


def test_round_zero_is_the_beginning_whatever_checkpoints_there_are(tmp_path):
    recipe = load_recipe("dimat-digits", SMALL)
    learner = assemble_learner(recipe, 0)
    untouched = learner.parameters()
    Checkpoints(tmp_path, "peer-0").save(1, {name: tensor + 1 for name, tensor in untouched.items()}, {})
    assert restore(Checkpoints(tmp_path, "peer-0"), learner, 0).finished == 0
    assert same(learner.parameters(), untouched)


def test_only_those_that_the_recipe_names_attack():
    recipe = load_recipe("dimat-digits", (*SMALL, "attack={name: sign-flip, peers: [1], scale: 2.0, from_round: 4}"))
    learners = [assemble_learner(recipe, index) for index in range(3)]
    assert [isinstance(learner, AttackingLearner) for learner in learners] == [False, True, False]
    honest = assemble_learner(load_recipe("dimat-digits", SMALL), 1)
    assert same(honest.parameters(), learners[1].parameters())


def test_flipped_labels_are_those_of_the_attackers_own_share():
    flipped = load_recipe("dimat-digits", (*SMALL, "attack={name: label-flip, peers: [1]}"))
    plain = load_recipe("dimat-digits", SMALL)
    for index in range(3):
        counts, true = (assemble_learner(recipe, index).class_counts() for recipe in (flipped, plain))
        assert counts == (true[::-1] if index == 1 else true)


def test_a_simulated_signer_counts_on_where_it_was_closed(tmp_path):
    identity, file = Identity.generate(), tmp_path / "node" / "counter"
    with contextlib.closing(SimulatedSigner(identity, file)) as signer:
        assert [signer.record(MembershipStatus.JOIN, "here:1", 1).counter for _ in range(3)] == [1, 2, 3]
        assert not file.exists()
    assert Signer(identity, file).record(MembershipStatus.LEAVE, "here:1", 4).counter == 4


def test_a_peer_comes_back_from_memory_as_from_files(tmp_path):
    kept = dict.fromkeys(Traffic, 7)
    metadata = {"time": "12.5", **{f"bytes_{kind.value}": str(size) for kind, size in kept.items()}}
    starts = []
    for shelf in (MemoryShelf(), Checkpoints(tmp_path, "peer-0")):
        learner = NullLearner(0, 0)
        assert restore(shelf, learner, None) == Start()
        learner.train(1)
        shelf.save(3, learner.view(), {"round": "3", **metadata}, {f"{MEMORY}drift": torch.ones(2)})
        learner.train(4)
        fresh = NullLearner(0, 0)
        start = restore(shelf, fresh, None)
        assert fresh.parameters()["rounds"].tolist() == [1.0]
        starts.append((start.finished, start.time, start.sent, start.memory["drift"].tolist()))
    assert starts[0] == starts[1] == (3, 12.5, kept, [1.0, 1.0])


def test_a_learner_without_data_asks_for_none():
    recipe = load_recipe(
        "dimat-digits", ("learner={name: null, samples: 9}", "data.name=cifar10", "data.root=/nowhere")
    )
    assert assemble_learner(recipe, 1).samples == 9


# ---- what is taken from others -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "bfloat16", "int8", "{name: top-k, share: 0.1, whole: bfloat16}"])
def test_models_are_taken_as_they_are_and_as_the_recipe_packs_them_and_in_no_other_form(compression):
    recipe = load_recipe("dimat-digits", (*SMALL, "algorithm=dpsgd", f"exchange.compression={compression}"))
    learner = assemble_learner(recipe, 0)
    limits, state = limits_for(learner, recipe), learner.view()
    assert limits.model_bytes == sum(tensor.nbytes for tensor in state.values())
    taken = {limits.schema, *limits.packed}
    own = encoding_of(recipe)
    for write in (own, own.whole):
        packed = write(state, state, torch.Generator())
        assert schema_hash(packed) in taken
        assert sum(tensor.nbytes for tensor in packed.values()) <= limits.model_bytes
    others = [ENCODINGS.construct(name) for name in ENCODINGS.names() if name != recipe.exchange.compression.name]
    forms = {schema_hash(write(state, state, torch.Generator())) for write in others if not write.plain}
    assert forms - taken, "a form that this recipe does not have"
    assert len(taken) <= 3


def test_batches_are_taken_up_to_the_largest_whatever_their_rows():
    recipe = load_recipe("split-digits")
    client, server = (assemble_learner(recipe, index) for index in range(2))
    assert limits_for(client, recipe) == limits_for(server, recipe)
    limits = limits_for(server, recipe)
    assert limits.schema is None and limits.model_bytes == 256 * 128 * 4
