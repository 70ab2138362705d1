"""`decentral demo`: what five peers gain by training together, and how their model is served though one of those who
serve it lies; measured on this machine in about a minute."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.cli.output import JsonOption, note, say, say_json, say_table
from decentral.cli.run import OutOption


@dataclass(frozen=True, slots=True)
class Act:
    """One run of the demo: its folder, its recipe, and what a person should read it as."""

    folder: str
    recipe: str
    overrides: tuple[str, ...]
    title: str


ACTS = (
    Act("isolated", "dimat-digits", ("algorithm=isolated",), "each peer alone"),
    Act("dimat", "dimat-digits", (), "DIMAT over a ring"),
    Act("apart-average", "dimat-digits-apart", ("algorithm=dpsgd",), "plain weight averaging"),
    Act("apart-dimat", "dimat-digits-apart", (), "activation matching"),
)

SERVED, LYING, IMAGE = "serve-digits", ("liars={stage-1-b: wrong-output}",), "digits:7"


def demo(out: OutOption = None, as_json: JsonOption = False) -> None:
    """Train 5 peers on digits over mutual-TLS gRPC, let 9 peers serve the model, of whom one lies, and ask it."""
    from decentral.run.directory import next_folder
    from decentral.run.journal import FILE, read

    began = time.monotonic()
    root = out or next_folder("demo")
    results: dict[str, dict[str, Any]] = {}
    moved: float | None = None
    for act in ACTS:
        if not as_json:
            note(f"{act.title}: {act.recipe} {' '.join(act.overrides)}".rstrip())
        directory, results[act.folder] = play(act, root / act.folder, hidden=as_json)
        if act.folder == "apart-dimat":
            merged = [event["moved"] for event in read(directory / FILE) if event["event"] == "merged"]
            shares = [share for share in merged if share is not None]
            moved = sum(shares) / len(shares) if shares else None
    if not as_json:
        note(f"serving: {SERVED} {' '.join(LYING)}")
    answer = ask(root / "dimat", root / "serving")
    seconds = time.monotonic() - began
    if as_json:
        say_json({"runs": results, "moved": moved, "serving": answer, "seconds": seconds})
    else:
        show(root, results, moved)
        show_answer(answer)
        say()
        say(f"{seconds:.0f} s in all. Reports: {root}/*/report.html")
        say("Next: decentral recipes; decentral run dimat-digits --on sim; decentral up serve-digits --dir served")


def play(act: Act, folder: Path, hidden: bool) -> tuple[Path, dict[str, Any]]:
    from decentral.cli.progress import Progress
    from decentral.launch.engine import Options, execute
    from decentral.run.recipe import load_recipe

    recipe = load_recipe(act.recipe, act.overrides)
    with Progress(recipe, hidden=hidden) as progress:
        directory, summary = execute(recipe, "local", Options(out=folder, observe=progress))
    return directory.path, summary


def ask(run: Path, folder: Path) -> dict[str, Any]:
    """Serves the best model of a run, asks it about an image, and checks the receipt as anybody else would."""
    import asyncio

    from decentral.launch.background import start_serving, stop
    from decentral.launch.prepare import prepare
    from decentral.run.serving_recipe import ServingRecipe, load_any_recipe
    from decentral.serving.asking.inputs import read_inputs
    from decentral.serving.client import Client
    from decentral.serving.stages.model import Network
    from decentral.trust.receipt import verify

    said: list[str] = []
    recipe = load_any_recipe(SERVED, (f"model.run={run}", *LYING))
    assert isinstance(recipe, ServingRecipe)
    directory = prepare(recipe, folder, say=said.append)
    batch, asked = read_inputs([IMAGE], Network.load(directory.stages))

    async def predict() -> Any:
        async with Client.connect(directory.path) as client:
            return await client.predict(batch), {peer.id: peer.name for peer in client.anchors.peers}

    start_serving(directory)
    try:
        prediction, names = asyncio.run(predict())
    finally:
        stop(directory)
    receipt = directory.path / "receipt.json"
    prediction.receipt.save(receipt)
    began = time.monotonic()
    verdict = verify(receipt, directory.path / "trust.toml")
    return {
        "model": said[0] if said else "",
        "input": asked[0].name,
        "truth": asked[0].truth,
        "label": prediction.labels[0],
        "verified": [f"{each.part} {each.detail}" for each in prediction.findings if each.kind.value == "consensus"],
        "faults": [[names[each.node], each.kind.value, each.detail] for each in prediction.faults],
        "receipt": str(receipt),
        "valid": verdict.valid,
        "checked": time.monotonic() - began,
    }


def show_answer(answer: dict[str, Any]) -> None:
    say()
    say("(c) The best of those models, cut into 3 stages, each served by 3 peers; one lies (told to: simulated):")
    say(f"{answer['input']}, a {answer['truth']}: the answer is {answer['label']}")
    say(f"verified: {'; '.join(answer['verified'])}")
    for node, kind, detail in answer["faults"]:
        say(f"{kind}: {node}: {detail}")
    found = "valid" if answer["valid"] else "NOT valid"
    say(f"receipt: {answer['receipt']}: {found}, checked without a network in {answer['checked'] * 1000:.0f} ms")


def show(root: Path, results: dict[str, dict[str, Any]], moved: float | None) -> None:
    from decentral.run.figures import readable_bytes

    def row(act: Act, baseline: str) -> tuple[str, ...]:
        result = results[act.folder]
        accuracy = result["accuracy"]
        gain = accuracy["mean"] - results[baseline]["accuracy"]["mean"]
        return (
            act.title,
            f"{accuracy['mean']:.4f}",
            f"{accuracy['min']:.4f}",
            "" if act.folder == baseline else f"{gain:+.4f}",
            readable_bytes(result["bytes"]["total"]),
            f"{result['seconds']['wall']:.1f} s",
        )

    isolated, dimat, averaged, matched = ACTS
    heading = ("mean accuracy", "worst peer", "gain", "sent", "time")
    say()
    say("5 processes, 5 keys, mutual TLS. (a) Digits split unevenly, Dirichlet(0.1), common initialisation:")
    say_table(("", *heading), [row(isolated, "isolated"), row(dimat, "isolated")])
    say()
    say("(b) Peers trained apart for 20 epochs from different seeds, right after their first merge:")
    say_table(("", *heading), [row(averaged, "apart-average"), row(matched, "apart-average")])
    if moved is not None:
        say(f"The matching moved {moved:.0%} of the neighbours' hidden units to another place.")
