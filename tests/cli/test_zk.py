"""`decentral zk`: from parameters to a proof that somebody else verifies, and everything said to whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.models.catalogue import build_model
from decentral.wire.identity import Identity
from tests.cli.test_main import imported_by

NONCE = "5a" * 32
runner = CliRunner()


class Place:
    """A folder with parameters, and a store of circuits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        save_file(build_model("mlp", (1, 8, 8), 10, hidden=[6]).state_dict(), folder / "model.safetensors")
        Identity.open(folder / "identity.key")

    def zk(self, *arguments: str) -> Result:
        """In this process: another would take seconds to import torch."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("DECENTRAL_ZK", str(self.folder / "store"))
            return runner.invoke(app, ["zk", *arguments])

    def told(self, *arguments: str, code: int = 0) -> dict:  # type: ignore[type-arg]
        done = self.zk(*arguments, "--json")
        assert done.exit_code == code, done.stderr
        found: dict = json.loads(done.stdout)  # type: ignore[type-arg]
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With circuits in c, and a signed proof of digits:7 in p.zk."""
    place = Place(tmp_path_factory.mktemp("zk"))
    named = ("--set", "model.name=mlp", "--set", "model.hidden=[6]", "--set", "data.name=digits", "--stages", "2")
    tiny = ("--base", "16", "--legs", "8", "--local-test-srs")
    made = place.zk("setup", "model.safetensors", *named, *tiny, "--out", "c", "--key", "identity.key")
    assert made.exit_code == 0, made.stderr
    assert "local test SRS" in made.stdout and "stage 1: keys" in made.stderr
    proved = place.told("prove", "c", "digits:7", "--out", "p.zk", "--key", "identity.key", "--nonce", NONCE)
    assert proved["signed"] and proved["simulated"] and len(proved["outputs"][0]) == 10
    np.save(place.folder / "answer.npy", np.array(proved["outputs"][0]))
    return place


def test_a_proof_is_valid_for_its_task_input_and_output(place: Place) -> None:
    said = place.told("verify", "c", "p.zk", "digits:7", "--output", "answer.npy", "--nonce", NONCE, "--local-test-srs")
    assert said["valid"] and said["simulated"] and said["standing_on"] == "local test SRS"
    assert said["signers"] == [Identity.load(place.folder / "identity.key").id] * 2
    assert said["outputs"][0] == np.load(place.folder / "answer.npy").tolist()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("digits:7",), "allow it with --local-test-srs"),
        (("digits:8", "--local-test-srs"), "another input"),
        (("digits:7", "--local-test-srs", "--nonce", "00" * 32), "not signed for this task"),
        (("digits:7", "--local-test-srs", "--identity", "00" * 32), "is of the model"),
    ],
)
def test_what_it_is_not_valid_for_is_said(place: Place, arguments: tuple[str, ...], why: str) -> None:
    said = place.told("verify", "c", "p.zk", *arguments, code=1)
    assert not said["valid"] and why in said["reason"]


def test_bytes_that_are_no_proof_are_not_valid(place: Place) -> None:
    whole = (place.folder / "p.zk").read_bytes()
    for name, data in (("short", whole[:-1]), ("long", whole + b"\0"), ("none", b"")):
        (place.folder / name).write_bytes(data)
        done = place.zk("verify", "c", name, "digits:7", "--local-test-srs")
        assert done.exit_code == 1 and "NOT VALID" in done.stdout, name


def test_a_model_is_found_again_from_its_parameters(place: Place) -> None:
    assert place.told("setup", "c", "--out", "c", "--check", "--local-test-srs")["same"]


def test_the_card_says_how_good_the_model_is(place: Place) -> None:
    maker = Identity.load(place.folder / "identity.key").id
    told = place.told("card", "c", "--signer", maker)
    assert told["valid"] and told["signer"] == maker
    assert told["card"]["identity"] == place.told("setup", "c", "--out", "c", "--check", "--local-test-srs")["pinned"]
    assert "as proved" in place.zk("card", "c").stdout
    assert not place.told("card", "c", "--signer", "somebody", code=1)["valid"]


def test_contracts_are_written_and_it_is_said_that_nobody_compiled_them(place: Place) -> None:
    done = place.zk("contract", "c", "--out", "sol")
    assert done.exit_code == 0, done.stderr
    assert (place.folder / "sol" / "stage-1.sol").is_file() and "not compiled" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("setup", "model.safetensors", "--out", "x", "--parameters", "private"), "for every output there is one"),
        (("setup", "nothing", "--out", "x"), "nothing"),
        (("setup", "c", "--out", "x", "--budget", "1", "--rebase", "4"), "a plan finds stages, digits and rows itself"),
        (("setup", "c", "--budget", "1"), "give --out DIR"),
        (("prove", "nothing", "digits:7", "--out", "x"), "holds no circuits"),
        (("prove", "c", "digits:7-8", "--out", "x"), "one is proved at a time"),
        (("prove", "c", "digits:7", "--out", "x", "--nonce", NONCE), "go together"),
        (("verify", "c", "nothing", "digits:7"), "nothing"),
        (("verify", "c", "p.zk", "digits:7", "--nonce", "5a"), "64 hexadecimal digits"),
        (("verify", "c", "p.zk", "digits:7", "--output", "model.safetensors"), "no tensor"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_paragraph(place: Place, arguments: tuple[str, ...], why: str) -> None:
    done = place.zk(*arguments)
    assert done.exit_code == 2
    assert why in done.stderr and isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("command", ["setup", "prove", "verify", "contract", "card"])
def test_every_command_has_help_and_json(command: str) -> None:
    shown = runner.invoke(app, ["zk", command, "--help"])
    assert shown.exit_code == 0 and "--json" in shown.stdout


def test_help_imports_nothing_heavy(root: Path) -> None:
    assert not {"torch", "numpy", "grpc", "ezkl"} & imported_by(root, "zk", "setup", "--help")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plan_becomes_circuits_and_is_found_again(place: Place) -> None:
    """A network of which one layer needs a circuit of its own; the card's accuracy is that of all circuits."""
    torch.manual_seed(0)
    network = build_model("strided-cnn", (1, 8, 8), 10, channels=[48, 40])
    torch.save(network.state_dict(), place.folder / "cnn.pth")
    named = ("--set", "model.name=strided-cnn", "--set", "model.channels=[48,40]", "--set", "data.name=digits")
    how = ("cnn.pth", *named, "--out", "planned", "--local-test-srs")
    told = place.told("setup", *how, "--budget", "0.36", "--key", "identity.key")
    assert len(told["stages"]) > 1
    card = place.told("card", "planned")["card"]
    assert card["accuracy"]["proved"] == pytest.approx(card["accuracy"]["trained"], abs=0.02)
    assert place.told("setup", "planned", "--out", "planned", "--check", "--local-test-srs")["same"]
    done = place.zk("prove", "planned", "digits:9", "--out", "planned.zk")
    assert done.exit_code == 0, done.stderr
    assert place.told("verify", "planned", "planned.zk", "digits:9", "--local-test-srs")["valid"]
    assert not place.told("verify", "planned", "planned.zk", "digits:8", "--local-test-srs", code=1)["valid"]
    (place.folder / "planned" / "plan.json").write_text("{}")
    damaged = place.zk("setup", "planned", "--out", "planned", "--check", "--local-test-srs")
    assert damaged.exit_code == 2 and "plan.json: damaged" in damaged.stderr


@pytest.mark.slow
def test_a_prover_that_is_killed_goes_on_from_the_last_proof(place: Place) -> None:
    """By SIGKILL, when the first proof is on disk; its worker ends with it, which the fixture of all tests sees."""
    command = [sys.executable, "-P", "-m", "decentral", "zk", "prove", "c", "digits:9", "--out", "k.zk"]
    environment = {**os.environ, "DECENTRAL_ZK": str(place.folder / "store")}
    first = place.folder / "k.zk.job" / "stage-0.proof"
    with subprocess.Popen(command, cwd=place.folder, env=environment, stdout=-3, stderr=-3) as killed:
        ends = time.monotonic() + 100
        while not first.exists() and time.monotonic() < ends:
            time.sleep(0.002)
        killed.kill()
    assert first.exists() and not (place.folder / "k.zk").exists()
    kept = first.read_bytes()
    done = place.zk("prove", "c", "digits:9", "--out", "k.zk")
    assert done.exit_code == 0, done.stderr
    assert "stage 0: was proved before" in done.stderr and "stage 1: proving" in done.stderr
    assert kept in (place.folder / "k.zk").read_bytes() and not first.exists()
    assert place.told("verify", "c", "k.zk", "digits:9", "--local-test-srs")["valid"]
