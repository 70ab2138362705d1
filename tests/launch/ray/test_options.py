"""What is said of a Ray cluster is checked before anything is started."""

from __future__ import annotations

import pytest

from decentral.errors import RecipeError, UserError
from decentral.launch.ray import options as saying
from decentral.launch.ray.options import RayOptions
from decentral.run.recipe import load_recipe


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saying, "installed", lambda: True)


def test_without_ray_an_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(saying, "installed", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'decentral\[ray\]'"):
        RayOptions().check(load_recipe("dimat-digits"))


def test_a_peer_asks_for_its_threads_and_for_gpus_where_the_recipe_wants_one(installed):
    cpu, gpu = load_recipe("dimat-digits", ["threads=3"]), load_recipe("dimat-digits", ["device=cuda"])
    assert RayOptions().demand(cpu) == {"CPU": 3.0}
    assert RayOptions().demand(gpu) == {"CPU": 1.0, "GPU": 1.0}
    assert RayOptions(gpus=0.25).demand(gpu) == {"CPU": 1.0, "GPU": 0.25}
    RayOptions(gpus=0.25).check(gpu)


@pytest.mark.parametrize(
    ("options", "overrides", "words"),
    [
        (RayOptions(address="ray://head:10001"), [], "ray job submit"),
        (RayOptions(address="head"), [], "--address head: is not an address"),
        (RayOptions(gpus=1.0), [], "the recipe's device is cpu"),
        (RayOptions(gpus=0.0), ["device=cuda"], "must be above 0"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(installed, options, overrides, words):
    with pytest.raises(UserError, match=words):
        options.check(load_recipe("dimat-digits", overrides))


@pytest.mark.parametrize(
    "override", ["training.start_from=elsewhere", "data.partition={name: clusters, file: clusters.json}"]
)
def test_a_recipe_that_needs_a_file_of_this_machine_alone_is_refused(installed, override):
    recipe = load_recipe("diffusion-digits", [override])
    with pytest.raises(RecipeError, match="not handed to others"):
        RayOptions().check(recipe)


def test_the_runtime_environment_is_a_yaml_file(installed, tmp_path):
    file = tmp_path / "environment.yaml"
    file.write_text("pip: [einops]\nenv_vars: {NCCL_DEBUG: INFO}\n")
    options = RayOptions(runtime_env=file)
    options.check(load_recipe("dimat-digits"))
    assert options.environment() == {"pip": ["einops"], "env_vars": {"NCCL_DEBUG": "INFO"}}
    file.write_text("- no mapping\n")
    with pytest.raises(UserError):
        options.check(load_recipe("dimat-digits"))


def test_what_nobody_has_said_is_not_said():
    assert not RayOptions().said
    assert RayOptions(address="auto").said
