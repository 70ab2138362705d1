"""Containers of a recipe's nodes: the schema holds, each sees its own keys alone, and none has a right too many."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from decentral.launch.render import HEALTH, Setting, rendered
from tests.launch.rendered import serving, training

RENDERED = [
    pytest.param(training(), Setting(), id="training"),
    pytest.param(training(), Setting(gpu=True, memory="512Mi", port=7777), id="on GPUs"),
    pytest.param(serving(), Setting(), id="serving"),
    pytest.param(training(), Setting(renew=True), id="renewing"),
    pytest.param(serving(), Setting(metrics=9300), id="with metrics"),
    pytest.param(training(), Setting(plugins=(Path(__file__),)), id="with a plugin"),
]


def services(recipe, setting=None):
    return yaml.safe_load(rendered(recipe, "compose", setting or Setting()))["services"]


@pytest.mark.parametrize(("recipe", "setting"), RENDERED)
def test_it_is_as_the_compose_specification_has_it(recipe, setting):
    vendored = pytest.importorskip("check_jsonschema", reason="carries the specification's schema")
    jsonschema = pytest.importorskip("jsonschema")
    folder = Path(vendored.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    found = yaml.safe_load(rendered(recipe, "compose", setting))
    jsonschema.validate(found, schema)
    found["services"]["prepare"]["hostnam"] = "a mistake"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


def engine() -> list[str]:
    """Compose, as a plugin or a program of its own; empty where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            asked = subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False)
            if not asked.returncode:
                return command
    return []


@pytest.mark.parametrize(("recipe", "setting"), RENDERED)
def test_compose_itself_takes_it(recipe, setting, tmp_path):
    if not (command := engine()):
        pytest.skip("there is no docker compose here")
    (tmp_path / "compose.yaml").write_text(rendered(recipe, "compose", setting))
    command += ["-f", str(tmp_path / "compose.yaml"), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) >= {"prepare"}


@pytest.mark.parametrize(("recipe", "setting"), RENDERED)
def test_no_container_has_a_right_too_many(recipe, setting):
    for name, service in services(recipe, setting).items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["user"] == "10001:10001"
        assert not {"ports", "privileged", "cap_add", "network_mode"} & set(service), name
    assert yaml.safe_load(rendered(recipe, "compose", setting))["networks"] == {"peers": {"internal": True}}


def test_each_node_sees_its_own_folder_alone():
    found = services(training())
    for name in ("peer-0", "peer-1"):
        runs = [volume for volume in found[name]["volumes"] if volume["source"] == "runs"]
        assert [volume["volume"]["subpath"] for volume in runs] == [f"cluster/apart/{name}"]


def test_nodes_wait_for_their_keys_and_are_reached_at_the_names_that_these_are_made_for():
    found = services(training(), Setting(port=7777))
    command = found["prepare"]["command"]
    assert command[command.index("--hosts") + 1] == "peer-0,peer-1" and command[command.index("--port") + 1] == "7777"
    for name in ("peer-0", "peer-1"):
        assert found[name]["hostname"] == name and found[name]["expose"] == ["7777"]
        assert found[name]["depends_on"] == {"prepare": {"condition": "service_completed_successfully"}}
        assert found[name]["healthcheck"]["test"] == ["CMD", *HEALTH]


def test_a_node_shows_metrics_where_it_is_told_to_and_no_port_is_published():
    found = services(training(), Setting(metrics=9300))["peer-0"]
    assert found["command"][-2:] == ["--metrics", "0.0.0.0:9300"] and found["expose"] == ["7000", "9300"]
    assert "ports" not in found
    assert "--metrics" not in services(training())["peer-0"]["command"]


def test_the_authority_that_renews_sees_its_own_folder_and_no_node_sees_that():
    assert "authority" not in services(training())
    found = services(training(), Setting(renew=True))
    assert [volume["volume"]["subpath"] for volume in found["authority"]["volumes"]] == ["cluster/authority"]
    command = found["prepare"]["command"]
    assert command[command.index("--authority") + 1] == found["authority"]["hostname"] == "authority"


def test_the_client_starts_when_it_is_asked_for():
    assert services(training())["client"]["profiles"] == ["client"]
    assert services(training())["client"]["command"] == ["gather", "/runs/cluster"]
    assert [name for name in services(serving()) if name.startswith("stage-")] == list(serving().node_names)


def test_a_dollar_in_a_recipe_is_no_variable_of_compose():
    recipe = training().model_copy(update={"name": "cost"})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": {"of": "$HOME"}})})
    text = yaml.safe_load(rendered(recipe, "compose", Setting()))["configs"]["recipe"]["content"]
    assert "$$HOME" in text and "$HOME" not in text.replace("$$", "")


def test_who_prepares_is_given_plugins_and_copies_them_for_the_nodes(tmp_path):
    file = tmp_path / "network.py"
    file.write_text('WORTH = "5 $"\n')
    found = yaml.safe_load(rendered(training(), "compose", Setting(plugins=(file,))))
    assert found["configs"]["plugin-0"]["content"] == 'WORTH = "5 $$"\n'  # which compose reads as one
    prepare = found["services"]["prepare"]
    (target,) = (each["target"] for each in prepare["configs"] if each["source"] == "plugin-0")
    assert prepare["command"][prepare["command"].index("--plugin") + 1] == target == "/etc/decentral/plugins/network.py"
    assert "configs" not in found["services"]["peer-0"]
