"""The simulator: same seed, same bytes; and an interrupted run ends as an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from decentral.algorithms.catalogue import ALGORITHMS
from decentral.core.attacks import ATTACKS
from decentral.errors import RecipeError, UserError
from decentral.launch.engine import Options, execute
from decentral.launch.simulated import make_trace
from decentral.run.journal import read
from decentral.run.recipe import load_recipe

SMALL = ("rounds=4", "peers=4", "model={name: mlp, hidden: [16]}")


def digests(run: Path, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Every file of a run directory, `seconds` apart."""
    found = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file() and path.name not in without):
        content = file.read_bytes()
        if file.name == "summary.json":
            summary = json.loads(content)
            del summary["seconds"]
            content = json.dumps(summary).encode()
        found[str(file.relative_to(run))] = hashlib.sha256(content).hexdigest()
    return found


def simulate(out: Path, *overrides: str, **options: object) -> Path:
    recipe = load_recipe("dimat-digits", (*SMALL, *overrides))
    directory, _ = execute(recipe, "sim", Options(out=out, **options))
    return directory.path


NEEDED = {
    "experts": (
        "model={name: unet, channels: [8, 16]}",
        "learner={name: diffusion, draws: 1, router: {channels: [8, 16]}}",
        "training.steps=2",
        "evaluation.samples=20",
    ),
    "split": (
        "peers=2",
        "model={name: mlp, hidden: [16, 16]}",
        "learner={name: split, cuts: ['2', '4']}",
        "data.partition=iid",
    ),
}
"""What an algorithm does not do without."""


@pytest.mark.parametrize("algorithm", ALGORITHMS.names())
def test_the_same_seed_gives_a_bit_identical_run_directory(tmp_path, algorithm):
    overrides = (*NEEDED.get(algorithm, ()), f"algorithm={algorithm}")
    first, second = (simulate(tmp_path / name, *overrides) for name in ("first", "second"))
    assert digests(first) == digests(second)
    assert len(digests(first)) > 15


def test_another_seed_gives_another_result(tmp_path):
    first, second = (simulate(tmp_path / seed, f"seed={seed}") for seed in ("0", "1"))
    assert digests(first)["checkpoints/peer-0.safetensors"] != digests(second)["checkpoints/peer-0.safetensors"]


def test_what_a_merge_makes_of_statistics_is_the_recipes_to_say(tmp_path):
    """Each value decides the result; what cannot matter to a network leaves it as it is."""

    def model(name, *overrides):
        run = simulate(tmp_path / name, "rounds=1", *overrides)
        return [tensor.tolist() for tensor in load_file(run / "checkpoints" / "peer-0.safetensors").values()]

    normalised = "model={name: mlp, hidden: [16], batch_norm: true}"
    plain, averaged = model("anew", normalised), model("averaged", normalised, "matching.statistics=average")
    assert plain == model("auto", normalised, "matching.repair=auto")
    assert plain != averaged
    bare = model("bare")
    assert bare == model("bare-averaged", "matching.statistics=average")
    assert bare != model("bare-repaired", "matching.repair=true") == model("bare-auto", "matching.repair=auto")


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.fresh_optimizer=true",),
        ("training.fresh_optimizer=false",),
        ("algorithm=dpsgd", "training.steps=7", "training.fresh_optimizer=false"),
        ("algorithm=sgp", "topology=star"),
        ("algorithm=gradient-tracking",),
        ("algorithm=gradient-tracking", "training.fresh_optimizer=false"),
        ("algorithm=dpsgd", "exchange.compression={name: top-k, share: 0.1}"),
        ("algorithm=fedavg", "exchange.compression={name: top-k, share: 0.1}", "averaging.outer=nesterov"),
    ],
    ids=" ".join,
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, overrides):
    def stopping(event: dict[str, object]) -> None:
        if event["event"] == "trained" and event["round"] == 3 and event["peer"] == 2:
            raise Stop

    whole = simulate(tmp_path / "whole", *overrides)
    with pytest.raises((Stop, BaseExceptionGroup)):
        simulate(tmp_path / "halved", *overrides, observe=stopping)
    assert json.loads((tmp_path / "halved" / "summary.json").read_text())["rounds"] < 4
    halved = simulate(tmp_path / "halved", *overrides, resume=True)
    history = frozenset({"events.jsonl", "report.html", "counter", ".lock"})  # they tell of the interruption
    assert digests(whole, without=history) == digests(halved, without=history)
    assert (halved / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=gossip",),
        ("algorithm=sgp", "topology=exponential"),
        ("algorithm=fedavg", "fedavg.clients=2"),
        ("algorithm=fedavg", "fedavg.clients=2", "training.fresh_optimizer=false"),
        ("algorithm=fedavg", "fedavg.clients=2", "averaging.outer=nesterov", "exchange.compression=top-k"),
    ],
    ids=" ".join,
)
def test_a_resumed_run_of_pairs_or_samples_ends_with_the_same_parameters(tmp_path, overrides):
    """Not with the same control bytes: what peers that do not meet in every round know of one another is asked anew."""

    def stopping(event: dict[str, object]) -> None:
        if event["event"] == "trained" and event["round"] == 3 and event["peer"] == 2:
            raise Stop

    whole = simulate(tmp_path / "whole", *overrides)
    with pytest.raises((Stop, BaseExceptionGroup)):
        simulate(tmp_path / "halved", *overrides, observe=stopping)
    halved = simulate(tmp_path / "halved", *overrides, resume=True)
    for peer in range(4):
        one, other = (load_file(run / "checkpoints" / f"peer-{peer}.safetensors") for run in (whole, halved))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_resumed_run_of_split_learning_ends_with_the_same_parameters(tmp_path):
    def stopping(event: dict[str, object]) -> None:
        if event["event"] == "trained" and event["round"] == 3 and event["peer"] == 0:
            raise Stop

    overrides = (*NEEDED["split"], "algorithm=split", "training.fresh_optimizer=false")
    whole = simulate(tmp_path / "whole", *overrides)
    with pytest.raises((Stop, BaseExceptionGroup)):
        simulate(tmp_path / "halved", *overrides, observe=stopping)
    halved = simulate(tmp_path / "halved", *overrides, resume=True)
    for peer in range(2):
        one, other = (load_file(run / "checkpoints" / f"peer-{peer}.safetensors") for run in (whole, halved))
        assert one and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_server_of_split_learning_has_no_part_in_the_accuracy(tmp_path):
    run = simulate(tmp_path, *NEEDED["split"], "algorithm=split")
    summary = json.loads((run / "summary.json").read_text())
    client, server = summary["accuracy"]["per_peer"]
    assert server is None
    assert summary["accuracy"]["mean"] == summary["accuracy"]["min"] == client > 0.1
    assert summary["rounds"] == 4
    assert "NaN" not in (run / "report.html").read_text()


def test_a_resumed_run_of_samples_goes_on_from_the_newest_aggregate(tmp_path):
    """Not with the same parameters: each peer has the rounds that it was drawn in, and the newest starts the others."""

    def stopping(event: dict[str, object]) -> None:
        if event["event"] == "merged" and event["round"] == 9:
            raise Stop

    recipe = load_recipe("modest-digits", ("rounds=14", "peers=8", "sampling.size=3"))
    _, whole = execute(recipe, "sim", Options(out=tmp_path / "whole"))
    with pytest.raises((Stop, BaseExceptionGroup)):
        execute(recipe, "sim", Options(out=tmp_path / "halved", observe=stopping))
    directory, halved = execute(recipe, "sim", Options(out=tmp_path / "halved", resume=True))
    assert halved["rounds"] == whole["rounds"] == 14
    assert len(set(halved["accuracy"]["per_peer"])) == 1
    assert halved["accuracy"]["mean"] == pytest.approx(whole["accuracy"]["mean"], abs=0.05)
    merged = [event["round"] for event in read(directory.path / "events.jsonl") if event["event"] == "merged"]
    assert sorted(set(merged)) == list(range(1, 15)) and len(merged) < 18, "what was done is not done again"


@pytest.mark.parametrize("attack", ATTACKS.names())
def test_an_attack_is_the_same_every_time_and_reaches_the_others(tmp_path, attack):
    settings = ("algorithm=dpsgd", "topology=full", f"attack={{name: {attack}, peers: [2], from_round: 1}}")
    first, second = (simulate(tmp_path / name, *settings) for name in ("first", "second"))
    assert digests(first) == digests(second)
    honest = simulate(tmp_path / "honest", *settings[:2])
    assert digests(first)["checkpoints/peer-0.safetensors"] != digests(honest)["checkpoints/peer-0.safetensors"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm=dpsgd", "exchange.compression=int8"),
        ("algorithm=gossip", "exchange.compression=top-k"),
        ("algorithm=modest", "exchange.compression=bfloat16", "sampling.size=3"),
        ("algorithm=modest", "exchange.compression=top-k", "averaging.outer=nesterov", "sampling.size=3"),
    ],
    ids=" ".join,
)
def test_packed_models_are_the_same_every_time_and_are_what_the_others_take(tmp_path, overrides):
    first, second = (simulate(tmp_path / name, *overrides) for name in ("first", "second"))
    assert digests(first) == digests(second)
    assert not [event for event in read(first / "events.jsonl") if event["event"] in ("refused", "rejected")]
    whole = simulate(tmp_path / "whole", *overrides[:1], *overrides[-1:][: overrides[-1].startswith("sampling")])
    sent = [json.loads((run / "summary.json").read_text())["bytes"]["model"] for run in (first, whole)]
    assert sent[0] < 0.7 * sent[1]


@pytest.mark.parametrize("compression", ["int8", "{name: top-k, share: 0.2}"])
def test_a_lie_is_packed_as_a_true_model_is(tmp_path, compression):
    """Else the receivers would refuse it for its form, and a defence would look better than it is."""
    lies = ("attack={name: sign-flip, peers: [2], scale: 8.0}", f"exchange.compression={compression}")
    run = simulate(tmp_path / "run", "algorithm=dpsgd", "topology=full", "data.partition=iid", *lies)
    events = read(run / "events.jsonl")
    assert not [event for event in events if event["event"] in ("refused", "rejected")]
    assert all(2 in event["received"] for event in events if event["event"] == "exchanged" and event["peer"] == 0)


def test_a_robust_rule_undoes_what_a_liar_does_to_the_mean(tmp_path):
    settings = ("algorithm=dpsgd", "topology=full", "data.partition=iid", "rounds=6", "training.learning_rate=0.05")
    attack = ("attack={name: sign-flip, peers: [2], scale: 8.0}",)
    found = {}
    for name, more in {"clean": (), "mean": attack, "median": (*attack, "averaging.rule=median")}.items():
        run = simulate(tmp_path / name, *settings, *more)
        found[name] = json.loads((run / "summary.json").read_text())["accuracy"]["mean"]
    assert found["mean"] < found["clean"] - 0.3
    assert found["median"] > found["clean"] - 0.05


# ---- many peers that learn nothing, and a trace of their speeds -----------------------------------------------------

LIGHT = ("learner=null", "algorithm=dpsgd", "rounds=3", "evaluation.every=3")


def test_a_null_learner_reports_no_accuracy_and_writes_no_checkpoint(tmp_path):
    run = simulate(tmp_path / "run", *LIGHT)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["accuracy"]["mean"] is None and summary["loss"] is None and summary["rounds"] == 3
    assert list((run / "checkpoints").iterdir()) == []


def test_a_modelled_model_is_counted_and_timed_as_if_it_were_there(tmp_path):
    light, heavy = (
        json.loads((simulate(tmp_path / name, *LIGHT, *overrides) / "summary.json").read_text())
        for name, overrides in (("light", ()), ("heavy", ("learner={name: null, model_bytes: 1000000}",)))
    )
    sent = 3 * 4 * 2  # rounds, peers of a ring, neighbours
    assert heavy["bytes"]["model"] - light["bytes"]["model"] == sent * 1_000_000
    assert heavy["bytes"]["control"] == light["bytes"]["control"]
    assert heavy["virtual_seconds"] - light["virtual_seconds"] == pytest.approx(3 * 2 * 1e6 / 12.5e6, abs=1e-3)


@pytest.mark.parametrize("trace", ["synthetic", "{name: synthetic, speed_spread: 0.0, bandwidth_spread: 2.0}"])
def test_a_traced_run_repeats_to_the_last_byte(tmp_path, trace):
    overrides = (*LIGHT, "peers=12", "algorithm=gossip", f"simulation.trace={trace}")
    first, second = (simulate(tmp_path / name, *overrides) for name in ("first", "second"))
    assert digests(first) == digests(second)


def test_training_that_is_given_up_leaves_a_run_repeatable(tmp_path):
    """Its thread may be at anything when that happens; what the optimiser remembers of it is the same all the same."""
    sampling = ("algorithm=modest", "peers=8", "rounds=8", "sampling={size: 4, success: 0.5}")
    slow = ("simulation.trace=synthetic", "simulation.samples_per_second=200", "training.fresh_optimizer=false")
    first, second = (simulate(tmp_path / name, *sampling, *slow) for name in ("first", "second"))
    assert digests(first) == digests(second)
    events = read(first / "events.jsonl")
    abandoned = [event["seconds"] for event in events if event["event"] == "abandoned"]
    assert abandoned and min(abandoned) > 0.0


def test_each_peer_of_a_trace_trains_at_its_own_speed(tmp_path):
    overrides = (*LIGHT, "peers=8", "simulation.trace=synthetic")
    trace = make_trace(load_recipe("dimat-digits", (*SMALL, *overrides)))
    events = read(simulate(tmp_path / "run", *overrides) / "events.jsonl")
    seconds = {event["peer"]: event["seconds"] for event in events if event["event"] == "trained"}
    assert len(set(seconds.values())) == 8
    assert seconds == pytest.approx({peer: 500 / trace.speed[peer] for peer in range(8)}, abs=1e-5)


def test_a_trace_that_cannot_be_used_is_named_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        simulate(tmp_path / "run", *LIGHT, "simulation.trace={name: file, latencies: nowhere.csv}")
    with pytest.raises(RecipeError, match="speed_spread"):
        load_recipe("dimat-digits", ("simulation.trace={name: synthetic, speed_sprea: 1.0}",))


def test_more_peers_take_part_than_files_may_be_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 40, hard))
    try:
        run = simulate(tmp_path / "run", *LIGHT, "peers=100", "rounds=1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert json.loads((run / "summary.json").read_text())["rounds"] == 1


def test_what_arrives_when_has_not_changed(tmp_path):
    """To the microsecond and the byte, with losses and a narrow uplink: whoever changes it changes every result."""
    overrides = ("algorithm=dpsgd", "simulation.loss=0.2", "topology=full", "simulation.bandwidth=1e5")
    summary = json.loads((simulate(tmp_path / "run", *overrides) / "summary.json").read_text())
    assert summary["virtual_seconds"] == 2.13243
    assert summary["bytes"] == {"model": 238068, "control": 5840, "evidence": 0, "total": 243908}
