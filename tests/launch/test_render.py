"""Files for machines of their own: the examples are what is rendered, what cannot be rendered says why, files stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import RecipeError, RunDirectoryError, UserError
from decentral.launch import render
from decentral.launch.render import TARGETS, Setting, documents, label_of, plugin_texts, rendered, write
from decentral.run.recipe import load_recipe
from tests.launch.rendered import EXAMPLES, RECIPE, example, serving, training


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_is_rendered(name):
    before, now = example(name)
    assert before == now and "RECIPE" in now


@pytest.mark.parametrize("target", TARGETS)
def test_the_recipe_that_nodes_get_is_the_one_that_was_rendered(target, tmp_path):
    recipe = training("rounds=3", "model={name: mlp, hidden: [8]}")
    text = rendered(recipe, target, Setting())
    found = RECIPE.search(text)
    assert found is not None
    lines = [line.removeprefix(found[1]) for line in found[0].splitlines()]
    (tmp_path / "again.yaml").write_text("\n".join(lines))
    assert load_recipe(tmp_path / "again.yaml").hash == recipe.hash


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_recipe_is_rendered_the_same(target):
    assert rendered(training(), target, Setting()) == rendered(training(), target, Setting())


@pytest.mark.parametrize("port", [7000, 6999])
def test_metrics_are_not_where_grpc_is(port):
    with pytest.raises(UserError, match=f"--metrics {port}"):
        rendered(training(), "compose", Setting(metrics=port))


def test_a_target_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="kubernetes"):
        rendered(training(), "kubernets", Setting())


@pytest.mark.parametrize(
    ("overrides", "target", "key"),
    [
        (["attestation=required"], "slurm", "attestation"),
        (["training.start_from=x"], "compose", "training.start_from"),
        (["data.root=/data/here"], "compose", "data.root"),
        (["data.root=/data/here"], "kubernetes", "data.root"),
        (["data.download=true"], "kubernetes", "data.download"),
    ],
)
def test_what_only_this_machine_has_cannot_be_rendered(overrides, target, key):
    with pytest.raises(RecipeError) as refused:
        rendered(training(*overrides), target, Setting())
    assert refused.value.key == key


def test_a_batch_job_shares_files_with_this_machine():
    assert "root: /data/here" in rendered(training("data.root=/data/here"), "slurm", Setting())


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model={run: runs/dimat-digits-1}"], "model.run"),
        (["model={recipe: mine/of-this-machine.yaml}"], "model.recipe"),
        (["proofs=local-test"], "proofs"),
        (["attestation=offered"], "attestation"),
    ],
)
def test_a_model_that_containers_cannot_have_is_refused(overrides, key, monkeypatch):
    monkeypatch.setattr("decentral.run.serving_check.check_serving", lambda *_, **__: None)
    with pytest.raises(RecipeError) as refused:
        rendered(serving(*overrides), "compose", Setting())
    assert refused.value.key == key


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (Setting(confidential="kata"), "RuntimeClass"),
        (Setting(renew=True), "--renew"),
        (Setting(port=6999), "--port 6999"),
        (Setting(memory="much"), "--memory much"),
        (Setting(memory="2Gi; rm"), "--memory"),
        (Setting(metrics=9300), "--metrics is for nodes in containers"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(setting, words):
    with pytest.raises(UserError, match=words):
        rendered(training(), "slurm", setting)


@pytest.mark.parametrize("target", TARGETS)
def test_with_a_gpu_the_recipe_is_on_it_and_stays_the_same(target):
    plain, gpu = (rendered(training(), target, Setting(gpu=on)) for on in (False, True))
    assert "device: cpu" in plain and "device: cuda" in gpu
    assert training().hash in plain and training().hash in gpu


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_every_recipe_s_name_becomes_one_of_dns(name):
    label = label_of(training().model_copy(update={"name": name}))
    assert len(label) <= 44 and label[0].isalpha() and label[-1].isalnum()
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1),
        st.one_of(st.integers(), st.booleans(), st.text(st.sampled_from("ab $#:'\"\n-{}[]")), st.lists(st.text("ab"))),
    )
)
def test_a_document_reads_as_what_it_was_made_of(content):
    assert yaml.safe_load(documents(["a comment"], content)) == content


# Files


def test_nothing_is_overwritten_unless_it_is_forced(tmp_path):
    write(tmp_path / "out", {"a": ("one", False)})
    with pytest.raises(UserError, match="has a already"):
        write(tmp_path / "out", {"a": ("two", False), "b": ("two", False)})
    assert (tmp_path / "out" / "a").read_text() == "one" and not (tmp_path / "out" / "b").exists()
    write(tmp_path / "out", {"a": ("two", False)}, force=True)
    assert (tmp_path / "out" / "a").read_text() == "two"


def test_what_is_private_is_its_owner_s_alone(tmp_path):
    write(tmp_path / "out", {"keys": ("secret", True), "all": ("public", False)})
    assert (tmp_path / "out" / "keys").stat().st_mode & 0o077 == 0
    assert (tmp_path / "out" / "all").stat().st_mode & 0o044 == 0o044


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        write(tmp_path / "out", {"a": ("one", False)})


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path, monkeypatch):
    real = render.write_atomic

    def full(path: Path, data: bytes, *, private: bool = False) -> None:
        if path.name == "b":
            raise OSError(28, os.strerror(28), str(path))
        real(path, data, private=private)

    monkeypatch.setattr(render, "write_atomic", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        write(tmp_path, {"a": ("one", False), "b": ("one", False)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("a b.py",), ("one/same.py", "two/same.py"), ("absent.py",)], ids=str)
def test_plugins_that_no_folder_can_have_are_named(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name != "absent.py":
            (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=names[-1]):
        plugin_texts(Setting(plugins=tuple(tmp_path / name for name in names)))
