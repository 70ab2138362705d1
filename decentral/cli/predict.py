"""`decentral predict`: an answer of a model that peers serve, with what was verified of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.evidence_words import evidence_lines, fault_lines
from decentral.cli.output import (
    JsonOption,
    PluginOption,
    SimulatedOption,
    ViaOption,
    load_plugins,
    note,
    say,
    say_json,
    say_table,
)
from decentral.cli.proving import ProofProgress, plain_proof, proof_words
from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.serving.asking.inputs import Asked
    from decentral.serving.asking.prediction import Prediction, Unverified
    from decentral.serving.client import Client
    from decentral.trust.evidence import Fault
    from decentral.trust.policy import Policy

    Tell = Callable[[Prediction, tuple[Asked, ...]], None]

MOST = 1024
"""Inputs of one batch, which has one receipt."""
SHOWN = 20
TOO_CLOSE = "undecided: too close for what honest machines differ by"
TIED = "undecided: two classes have the same number"
"""In floats, and in the whole numbers of circuits."""


def predict(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a cluster that is up.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="A picture, .npy, .safetensors, digits:7 or digits:0-31."),
    ] = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="What an answer needs, in TOML.")] = None,
    require: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="Evidence that it needs: consensus, zk, attestation.")
    ] = None,
    simulated: SimulatedOption = False,
    receipt: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to keep the evidence.")] = None,
    later: Annotated[
        bool, typer.Option("--no-wait-proof", help="Take the answer before it is proved; --receipt is completed later.")
    ] = False,
    waiting: Annotated[
        Path | None,
        typer.Option("--wait-proof", metavar="RECEIPT", help="Complete one that was taken so, instead of asking."),
    ] = None,
    via: ViaOption = None,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a model that peers serve; say what was verified, how, and who failed.

    Where the policy wants proofs, they are waited for. With --no-wait-proof the answer is there at once, by consensus
    on the same whole numbers, and its receipt is valid once --wait-proof has completed it; whoever then does not prove
    what it has answered is remembered for that.

    Exit code 1: there is no answer that the policy accepts, or it was not proved.
    """
    if waiting is not None and (inputs or policy or require or simulated or later):
        raise UserError(
            "--wait-proof: a receipt has its inputs and its policy; only DIR, --receipt, --via, --plugin and --json go "
            "with it"
        )
    if waiting is None and not inputs:
        raise UserError("there is no INPUT to ask about")
    if later and receipt is None:
        raise UserError("--no-wait-proof: without --receipt FILE there is nothing that could be completed later")
    receipt = receipt or waiting
    if receipt is not None and not receipt.resolve().parent.is_dir():
        raise UserError(f"--receipt {receipt}: there is no folder {receipt.parent}")
    if receipt is not None and receipt.exists() and not receipt.is_file():
        raise UserError(f"--receipt {receipt}: is no ordinary file, and is not replaced by one")
    load_plugins(plugins)
    wanted = None if waiting is not None else _policy(directory, policy, require, simulated)
    if later and (wanted is None or not wanted.proved):
        raise UserError("--no-wait-proof: the policy wants no proofs; --require zk does")
    from decentral.serving.asking.prediction import Unverified

    def tell(prediction: Prediction, asked: tuple[Asked, ...]) -> None:
        kept = None
        try:
            _keep(receipt, prediction.receipt.encode())
            kept = receipt
        finally:  # an answer that has been paid for is told, whatever becomes of the file
            _say(directory, prediction, asked, kept, as_json)

    try:
        if waiting is not None:
            asyncio.run(_complete(directory, waiting, tell, via))
        else:
            asyncio.run(_ask(directory, inputs or (), wanted, tell, prove=not later, via=via))
    except Unverified as refused:
        _say_refused(directory, refused, as_json)
        _keep(receipt, refused.receipt.encode())
        raise typer.Exit(1) from None


def _policy(directory: Path, file: Path | None, require: str | None, simulated: bool) -> Policy | None:
    """None: what the cluster's clients ask for if they say nothing else. Raises UserError."""
    from decentral.serving.client import policy_of
    from decentral.trust.policy import Policy

    wanted = Policy.load(file) if file is not None else policy_of(directory)
    if require is not None:
        wanted = wanted.requiring(require)
    if simulated:
        wanted = replace(wanted, allow_simulated=True)
    if wanted.proved:
        check_proved(directory)
    return wanted


def check_proved(directory: Path) -> None:
    """Raises UserError with the command to use where a part of a cluster has no circuit that could prove it."""
    from decentral.trust.anchors import FILE, Anchors

    parts = [part for part in Anchors.load(directory / FILE).parts if part.at == "peers"]
    if lacking := [part.name for part in parts if not part.circuit]:
        raise UserError(
            f"the policy wants zk, and {directory / FILE} pins no circuit of {', '.join(lacking)}: make them with "
            f"`decentral zk setup {directory}` (--srs FILE, or --local-test-srs for a test), and start the cluster "
            "again; or require something else"
        )


async def _ask(
    directory: Path,
    words: Sequence[str],
    policy: Policy | None,
    tell: Tell,
    *,
    prove: bool = True,
    via: str | None = None,
) -> None:
    """Tells the answer as soon as it is there: what is learned of the peers may take longer."""
    from decentral.serving.asking.inputs import read_inputs
    from decentral.serving.client import STAGES, Client
    from decentral.serving.stages.model import Network

    network = Network.load(directory / STAGES)
    batch, asked = await asyncio.to_thread(read_inputs, words, network)
    if len(batch) > MOST:
        raise UserError(f"{len(batch)} inputs; at most {MOST} are asked about at once")
    async with _closing(await Client.connect(directory, policy=policy, via=via)) as client:
        tell(await client.predict(batch, prove=prove, say=ProofProgress(_names(directory))), asked)


async def _complete(directory: Path, file: Path, tell: Tell, via: str | None = None) -> None:
    """An answer that was taken before it was proved, with its proofs. Raises UserError, Unverified."""
    from decentral.serving.asking.inputs import Asked
    from decentral.serving.client import Client
    from decentral.trust.receipt import Receipt

    receipt = await asyncio.to_thread(Receipt.load, file)
    async with _closing(await Client.connect(directory, via=via)) as client:
        prediction = await client.complete(receipt, say=ProofProgress(_names(directory)))
        tell(prediction, tuple(Asked(f"input {place}", None) for place in range(len(prediction.output))))


@asynccontextmanager
async def _closing(client: Client) -> AsyncIterator[Client]:
    """An answer is as good as it was, whether or not what was learned of the peers can be kept."""
    try:
        yield client
    finally:
        try:
            await client.close()
        except UserError as error:
            note(f"warning: what was learned of the peers is not kept: {error}")


def _keep(file: Path | None, data: bytes) -> None:
    from decentral.files import write_atomic

    if file is not None:
        try:
            write_atomic(file, data)
        except OSError as error:
            raise UserError(f"--receipt {file}: cannot be written ({error.strerror or error})") from error


# ---- what is said --------------------------------------------------------------------------------------------------


def _say(directory: Path, prediction: Prediction, asked: Sequence[Asked], receipt: Path | None, as_json: bool) -> None:
    from decentral.serving.client import STAGES
    from decentral.serving.stages.model import Network
    from decentral.trust import packing

    classes = Network.load(directory / STAGES).class_names
    answers = [_answer(place, one, prediction, classes) for place, one in enumerate(asked)]
    cost = prediction.cost
    if as_json:
        say_json(
            {
                "answers": answers,
                "verdict": {"valid": prediction.verdict.valid, "reasons": list(prediction.verdict.reasons)},
                "findings": [packing.finding(each) for each in prediction.findings],
                "faults": _faults(directory, prediction.faults),
                "cost": {
                    "asked": cost.asked,
                    "sent": cost.sent,
                    "received": cost.received,
                    "seconds": round(cost.waited, 4),
                },
                "proved": plain_proof(prediction.proved, _names(directory)),
                "noise": None if prediction.noise is None else asdict(prediction.noise),
                "receipt": None if receipt is None else str(receipt),
            }
        )
        return
    undecided = TIED if prediction.proved is not None else TOO_CLOSE
    say_table(("input", "answer", "true"), [_row(each, undecided) for each in answers[:SHOWN]])
    if len(answers) > SHOWN:
        told = Counter("undecided" if each["label"] is None else "decided" for each in answers)
        say(f"... {len(answers)} in all: {', '.join(f'{count} {word}' for word, count in sorted(told.items()))}")
    known = [each for each in answers if each["truth"] is not None and each["label"] is not None]
    if len(known) > 1:
        right = sum(each["label"] == each["truth"] for each in known)
        say(f"right: {right} of {len(known)} that are decided")
    agreed = [f"{each.part} {each.detail}" for each in prediction.findings if each.kind.value == "consensus"]
    say(f"verified: {'; '.join(agreed) or 'nothing was compared'}")
    for line in evidence_lines(prediction.findings):
        say(line)
    if prediction.proved is not None:
        for line in proof_words(prediction.proved, _names(directory)):
            say(line)
    if prediction.noise is not None:
        say(f"added to what left this machine: {prediction.noise}")
    for line in fault_lines(_faults(directory, prediction.faults)):
        say(line)
    from decentral.run.figures import readable_bytes

    sent, received = readable_bytes(cost.sent), readable_bytes(cost.received)
    say(f"cost: {cost.asked} answers of replicas, {sent} sent, {received} received, {cost.waited:.2f} s")
    if receipt is not None:
        if prediction.proved is not None and prediction.proved.pending:
            say(f"receipt: {receipt}; not valid before: decentral predict {directory} --wait-proof {receipt}")
            return
        say(f"receipt: {receipt}; check it anywhere: decentral verify {receipt} --trust {directory / 'trust.toml'}")


def _say_refused(directory: Path, refused: Unverified, as_json: bool) -> None:
    faults, problems = _faults(directory, refused.faults), _problems(directory, refused)
    if as_json:
        verdict = {"valid": False, "reasons": list(refused.reasons)}
        say_json({"answers": [], "verdict": verdict, "faults": faults, "problems": problems})
        return
    say("no answer that the policy accepts:")
    for reason in refused.reasons:
        say(f"  {reason}")
    for line in fault_lines(faults):
        say(line)
    told = {(fault["node"], fault["detail"]) for fault in faults}
    for node, why in problems.items():
        if (node, why) not in told:
            say(f"{node}: {why}")
    if problems and all(fault["kind"] == "unresponsive" for fault in faults):
        say(f"who is up: decentral status {directory}")


def _problems(directory: Path, refused: Unverified) -> dict[str, str]:
    """Why peers said nothing, by name. Peers had a hand in the words, and a terminal reads them."""
    names = _names(directory)
    told = {names.get(peer, peer): why.removeprefix(f"{peer}: ") for peer, why in refused.problems.items()}
    return {node: "".join(filter(str.isprintable, why))[:200] for node, why in told.items()}


def _answer(place: int, asked: Asked, prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    label = prediction.labels[place] if prediction.labels else None
    decided = None if label is None or label < 0 else label
    return {
        "input": asked.name,
        "label": decided,
        "class": None if decided is None else (classes[decided] if decided < len(classes) else str(decided)),
        "truth": asked.truth,
        "output": [float(value) for value in prediction.output[place].flatten().tolist()],
    }


def _row(answer: dict[str, Any], undecided: str) -> tuple[str, ...]:
    said = answer["class"] or undecided
    return answer["input"], said, "" if answer["truth"] is None else str(answer["truth"])


def _faults(directory: Path, faults: Sequence[Fault]) -> list[dict[str, str]]:
    from decentral.trust import telling
    from decentral.trust.anchors import FILE, Anchors

    return telling.faults(Anchors.load(directory / FILE), faults)


def _names(directory: Path) -> dict[str, str]:
    from decentral.trust.anchors import FILE, Anchors

    return {peer.id: peer.name for peer in Anchors.load(directory / FILE).peers}
