"""What `decentral zk` says of circuits, proofs and cards; always what they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from decentral.run.directory import ServingDirectory
    from decentral.serving.asking.inputs import Asked
    from decentral.zk.bundle import Bundle
    from decentral.zk.card import SignedCard
    from decentral.zk.circuit import Chain
    from decentral.zk.proving import Proven
    from decentral.zk.verification import Verified

TEST = "local test SRS: whoever made it could forge these proofs"


def _stages(chain: Chain) -> list[dict[str, Any]]:
    return [
        {
            "identity": circuit.identity.hex(),
            "rows": circuit.settings.rows,
            "logrows": circuit.settings.logrows,
            "input_scales": list(circuit.settings.input_scales),
            "output_scales": list(circuit.settings.output_scales),
            "parameters": circuit.settings.visibilities[1].value,
            "key_bytes": len(circuit.key),
            "proof_bytes": circuit.proof_bytes,
        }
        for circuit in chain.circuits
    ]


def standing_words(words: str, local: bool) -> str:
    """What proofs stand on, for people."""
    return f"stands on {TEST if local else words}"


def _say_standing(chain: Chain) -> None:
    say(standing_words(chain.words, chain.local))


def say_circuits(out: Path, chain: Chain, card: SignedCard | None, seconds: float, as_json: bool) -> None:
    told = {
        "identity": chain.identity.hex(),
        "standing_on": chain.words,
        "simulated": chain.local,
        "card": None if card is None else asdict(card.card),
    }
    if as_json:
        say_json({**told, "stages": _stages(chain), "seconds": round(seconds, 2), "folder": str(out)})
        return
    _say_stages("stage", [str(place) for place in range(len(chain.circuits))], chain)
    say(f"identity {told['identity']}")
    if card is not None:
        _say_accuracy(card)
    _say_standing(chain)
    say(f"written to {out} in {seconds:.1f} s; prove with: decentral zk prove {out} INPUT --out FILE")


def _say_stages(heading: str, names: Sequence[str], chain: Chain) -> None:
    say_table(
        (heading, "rows", "of", "scales", "proof"),
        [
            (
                name,
                str(each["rows"]),
                f"2^{each['logrows']}",
                f"{each['input_scales'][0]} to {each['output_scales'][0]} bits",
                f"{each['proof_bytes']} bytes",
            )
            for name, each in zip(names, _stages(chain), strict=True)
        ],
    )


def say_pinned(cluster: ServingDirectory, chain: Chain, seconds: float, as_json: bool) -> None:
    """Of a standing cluster."""
    parts = cluster.recipe.parts[cluster.recipe.local :]
    if as_json:
        stages = [{"part": part, **each} for part, each in zip(parts, _stages(chain), strict=True)]
        told = {"standing_on": chain.words, "simulated": chain.local, "running": cluster.in_use}
        say_json({**told, "parts": stages, "seconds": round(seconds, 2), "folder": str(cluster.circuits)})
        return
    _say_stages("part", parts, chain)
    _say_standing(chain)
    say(f"pinned in {cluster.path / 'trust.toml'} in {seconds:.1f} s; clients that copied it copy it again")
    down = f"decentral down {cluster.path}; " if cluster.in_use else ""
    say(f"nodes prove once they have started again: {down}decentral up {cluster.recipe_file} --dir {cluster.path}")


def say_card(signed: SignedCard, maker: str, wrong: Sequence[str], as_json: bool) -> None:
    if as_json:
        say_json({"valid": not wrong, "reasons": list(wrong), "signer": maker, "card": asdict(signed.card)})
    elif wrong:
        say(f"NOT VALID: {'; '.join(wrong)}")
    else:
        say(f"identity {signed.card.identity}")
        _say_accuracy(signed)
        say(f"parameters {signed.card.visibility}; stands on {signed.card.standing_on}; signed by {maker}")


def _say_accuracy(signed: SignedCard) -> None:
    accuracy = signed.card.accuracy
    if accuracy is None:
        say("accuracy: not measured")
    else:
        proved = "not measured" if accuracy.proved is None else f"{accuracy.proved:.4f}"
        say(f"accuracy on {accuracy.images} images of {accuracy.data}: {accuracy.trained:.4f}, as proved {proved}")


def say_checked(out: Path, pinned: Chain, again: Chain, as_json: bool) -> bool:
    """Whether they are the same."""
    pairs = zip(pinned.circuits, again.circuits, strict=True)
    differing = [place for place, (one, other) in enumerate(pairs) if one.identity != other.identity]
    if as_json:
        say_json(
            {
                "same": not differing,
                "pinned": pinned.identity.hex(),
                "found": again.identity.hex(),
                "differing": differing,
            }
        )
    elif differing:
        say(f"NOT THE SAME: stage {', '.join(map(str, differing))} of this model comes to other circuits than {out}")
    else:
        say(f"the same: this model comes to the identity {pinned.identity.hex()}")
        _say_standing(pinned)
    return not differing


def say_proven(
    out: Path, chain: Chain, proven: Proven, proofs: Bundle, asked: Asked, seconds: float, as_json: bool
) -> None:
    stages = [
        {"seconds": None, "cpu_seconds": None, "peak_bytes": None}
        if usage is None
        else {"seconds": round(usage.wall, 3), "cpu_seconds": round(usage.cpu, 3), "peak_bytes": usage.peak}
        for usage in proven.usage
    ]
    size = len(proofs.encoded())
    if as_json:
        say_json(
            {
                "proof": str(out),
                "bytes": size,
                "input": asked.name,
                "outputs": [list(each) for each in proven.outputs],
                "identity": chain.identity.hex(),
                "standing_on": chain.words,
                "simulated": chain.local,
                "signed": bool(proofs.bindings),
                "stages": stages,
                "seconds": round(seconds, 2),
            }
        )
        return
    for each in proven.outputs:
        say(f"{asked.name}: {', '.join(f'{value:.4g}' for value in each)}")
    say(
        f"proved in {seconds:.1f} s, checked, {size} bytes: {out}{'' if proofs.bindings else ' (nobody has signed it)'}"
    )
    _say_standing(chain)


def say_verified(found: Verified, chain: Chain, refused: str | None, as_json: bool) -> None:
    valid = found.passed and refused is None
    if as_json:
        say_json(
            {
                "valid": valid,
                "reason": None if valid else refused or found.detail,
                "stage": found.stage,
                "outputs": [list(each) for each in found.outputs],
                "signers": list(found.signers),
                "identity": chain.identity.hex(),
                "standing_on": chain.words,
                "simulated": found.simulated,
            }
        )
        return
    if not valid:
        say(f"NOT VALID: {refused or found.detail}")
        return
    for each in found.outputs:
        say(f"the model answers {', '.join(f'{value:.4g}' for value in each)}")
    say(f"valid: {found.detail}; model {chain.identity.hex()}")
    for place, signer in enumerate(found.signers):
        say(f"stage {place} was proved by {signer}")
    if found.simulated:
        say(f"stands on {TEST}")


def say_contracts(written: Sequence[Mapping[str, Any]], chain: Chain, compiled: bool, as_json: bool) -> None:
    if as_json:
        say_json({"contracts": list(written), "compiled": compiled, "standing_on": chain.words})
        return
    sizes = ["no" if each["bytes"] is None else f"{each['bytes']} bytes" for each in written]
    rows = [(str(place), each["file"], sizes[place]) for place, each in enumerate(written)]
    say_table(("stage", "file", "compiled"), rows)
    if not compiled:
        say("not compiled: name a compiler with --solc")
    _say_standing(chain)
