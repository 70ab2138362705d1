"""A learner at a worker is for an algorithm what it would be in its own process, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from decentral.errors import DatasetNotFound, UserError
from decentral.launch.assembly import agreed, exchanged_by, limits_for, own_learner, publisher_of
from decentral.launch.attackers import as_told
from decentral.launch.pool.host import Host
from decentral.launch.pool.remote import RemoteLearner, RemotePublisher, Worker
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe, load_recipe
from decentral.training.learner import Learner
from decentral.training.module_work import buffers_of, module_work
from decentral.wire.elements import schema_hash

SMALL = ("peers=3", "model={name: mlp, hidden: [8], batch_norm: true}", "data.subset=120")
EXPERTS = (
    "peers=3",
    "model={name: unet, channels: [8, 16]}",
    "learner={name: diffusion, draws: 1, router: {name: unet, channels: [8, 16]}}",
    "training.steps=2",
    "data.subset=200",
    "evaluation.samples=20",
)


class Here:
    """The way to a worker in this process."""

    def __init__(self) -> None:
        self.ask = Host().answer

    def prepared(self, recipe: Recipe, plugins: Sequence[Path]) -> tuple[Recipe, Sequence[str]]:
        return recipe, [str(plugin) for plugin in plugins]


def remote(recipe: Recipe, *indices: int) -> list[RemoteLearner]:
    worker = Worker(Here())
    worker.open(recipe)
    return [RemoteLearner(worker, index) for index in indices]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def lived(learner: Learner, other: Learner) -> list[object]:
    """A few rounds, with all that an algorithm may ask for."""
    told: list[object] = [learner.samples, learner.class_counts(), sorted(buffers_of(learner))]
    start = learner.parameters()
    told.append(learner.train(1, {name: torch.full_like(start[name], 0.01) for name in start if "weight" in name}))
    told.append(learner.train(2))
    learner.load(
        {
            name: tensor.lerp(start[name], 0.5) if tensor.is_floating_point() else tensor
            for name, tensor in learner.view().items()
        }
    )
    work = module_work(learner)
    assert work is not None
    work.reestimate()
    told += [work.samples, work.repairs("auto")]
    how = {"method": "activation", "statistics": "reestimate", "repair": False}
    told.append(work.merge([other.parameters()], [0.5, 0.5], **how))
    told.append(learner.evaluate())
    learner.load_optimizer(learner.optimizer_state())
    told.append(learner.train(3))
    return told


@pytest.mark.parametrize("fresh", ["true", "false"])
def test_a_life_at_a_worker_is_the_life_at_home(fresh):
    recipe = load_recipe("dimat-digits", (*SMALL, f"training.fresh_optimizer={fresh}"))
    home, far = [own_learner(recipe, index) for index in (0, 1)], remote(recipe, 0, 1)
    assert lived(home[0], home[1]) == lived(far[0], far[1])
    assert same(home[0].parameters(), far[0].parameters())
    assert same(home[0].optimizer_state(), far[0].optimizer_state())


@pytest.mark.parametrize("compression", ["none", "int8", "{name: top-k, share: 0.1}"])
def test_what_is_taken_from_others_is_bounded_alike(compression):
    recipe = load_recipe("dimat-digits", (*SMALL, "algorithm=dpsgd", f"exchange.compression={compression}"))
    home, (far,) = own_learner(recipe, 1), remote(recipe, 1)
    assert limits_for(home, recipe) == limits_for(far, recipe)
    assert schema_hash(exchanged_by(home)) == schema_hash(exchanged_by(far))
    assert agreed(recipe, home) == agreed(recipe, far) == recipe.hash


def test_training_that_is_for_nothing_before_it_begins_is_not_begun():
    recipe = load_recipe("dimat-digits", SMALL)
    (far,) = remote(recipe, 0)
    start = far.parameters()
    assert far.train(1, None, lambda: True).steps == 0
    assert same(start, far.parameters())


def test_a_liar_at_home_lies_about_what_a_worker_has_learned():
    recipe = load_recipe("dimat-digits", (*SMALL, "attack={name: gaussian, peers: [1]}"))
    home, far = as_told(recipe, 1, own_learner(recipe, 1)), as_told(recipe, 1, remote(recipe, 1)[0])
    home.train(1)
    far.train(1)
    assert same(home.lie, far.lie) and module_work(far).samples == module_work(home).samples


def test_what_the_recipe_gets_wrong_is_told_as_at_home(tmp_path):
    recipe = load_recipe("dimat-cifar10", (f"data.root={tmp_path}",))
    with pytest.raises(DatasetNotFound) as home:
        own_learner(recipe, 0)
    with pytest.raises(DatasetNotFound) as far:
        remote(recipe, 0)
    assert str(home.value) == str(far.value)


def test_an_expert_and_a_router_take_and_agree_on_what_they_would_at_home():
    recipe = load_recipe("diffusion-digits", EXPERTS)
    for index, far in zip((0, 2), remote(recipe, 0, 2), strict=True):
        home = own_learner(recipe, index)
        assert far.published and schema_hash(exchanged_by(home)) == schema_hash(exchanged_by(far))
        assert agreed(recipe, home) == agreed(recipe, far) != recipe.hash


def test_an_ensemble_is_written_where_the_learners_are(tmp_path):
    recipe = load_recipe("diffusion-digits", EXPERTS)
    expert, _, router = remote(recipe, 0, 1, 2)
    with RunDirectory.create(tmp_path / "run", recipe, "sim") as run:
        writers = [publisher_of(recipe, far, run, f"peer-{index}") for index, far in ((0, expert), (2, router))]
        assert all(isinstance(writer, RemotePublisher) for writer in writers)
        writers[0].own()
        writers[1].ensemble({0: expert.parameters()})
    assert (tmp_path / "run" / "nodes" / "peer-0" / "expert" / "config.json").exists()
    assert (tmp_path / "run" / "pipeline" / "model_index.json").exists()
    gone = expert.publisher(tmp_path / "nowhere", tmp_path / "nowhere" / "peer-0")
    with pytest.raises(UserError, match="not a folder of all machines"):
        gone.own()
