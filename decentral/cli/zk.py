"""`decentral zk`: prove what a model answered, and verify it, without showing what lies between its ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.output import JsonOption, note
from decentral.cli.zk_options import LocalOption, MemoryOption, SrsOption, TimeoutOption, limits_of
from decentral.cli.zk_plan import plan
from decentral.cli.zk_setup import NOT_VALID, setup
from decentral.cli.zk_words import (
    TEST,
    say_card,
    say_contracts,
    say_proven,
    say_verified,
)
from decentral.errors import Malformed, UserError

if TYPE_CHECKING:
    from decentral.launch.circuits import Reference
    from decentral.serving.asking.inputs import Asked
    from decentral.zk.bundle import Bundle
    from decentral.zk.circuit import Chain
    from decentral.zk.proving import Proven
    from decentral.zk.verification import Verified
    from decentral.zk.worker import Limits

zk = typer.Typer(
    name="zk",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Prove what a model answered, and verify it. Every command has --json.",
)

zk.command()(plan)
zk.command()(setup)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `zk setup` made.")]
InputArgument = Annotated[
    str, typer.Argument(metavar="INPUT", help="A picture, .npy, .safetensors or digits:7, as `predict` takes it.")
]
NonceOption = Annotated[
    str | None, typer.Option(metavar="HEX", help="The task's 32 random bytes, for which its proofs are signed.")
]


@zk.command()
def prove(
    folder: FolderArgument,
    given: InputArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the proofs go.")],
    parallel: Annotated[int, typer.Option(min=1, help="Proofs at a time, each with all the memory.")] = 1,
    job: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keeps finished proofs, so that one can go on. [default: OUT.job]"),
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The identity.key that signs for the task.")] = None,
    nonce: NonceOption = None,
    srs: SrsOption = None,
    memory: MemoryOption = 8,
    timeout: TimeoutOption = 3600,
    as_json: JsonOption = False,
) -> None:
    """Prove what the model answers to one input, stage by stage. Who is interrupted goes on from the last proof."""
    task = _nonce(nonce)
    if (task is None) != (key is None):
        raise UserError("--nonce and --key go together: a proof is signed for a task, by somebody")
    from decentral.launch.circuits import Reference

    began = time.monotonic()
    reference, limits = Reference(srs, local=True), limits_of(memory, timeout)
    kept = job or out.with_name(f"{out.name}.job")
    chain, proven, asked = asyncio.run(_prove(folder, given, reference, limits, parallel, kept))
    proofs = proven.proofs
    if task is not None and key is not None:
        from decentral.wire.identity import Identity
        from decentral.zk.binding import bind
        from decentral.zk.bundle import Bundle

        identity = Identity.load(key)
        bound = [bind(identity, task, chain.identity, place, each) for place, each in enumerate(proofs.proofs)]
        proofs = Bundle(proofs.proofs, tuple(bound))
    _write(out, proofs)
    if job is None:
        import shutil

        shutil.rmtree(kept, ignore_errors=True)
    say_proven(out, chain, proven, proofs, asked, time.monotonic() - began, as_json)


@zk.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="What you pin: circuits.json, or its folder.")],
    proof: Annotated[Path, typer.Argument(metavar="PROOF", help="What `zk prove` wrote.")],
    given: InputArgument,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the model is said to have answered: .npy, .safetensors.")
    ] = None,
    network: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of network.json, if it is not beside circuits.json.")
    ] = None,
    identity: Annotated[str | None, typer.Option(metavar="HEX", help="The model's identity that you know.")] = None,
    nonce: NonceOption = None,
    srs: SrsOption = None,
    local: LocalOption = False,
    memory: MemoryOption = 8,
    timeout: TimeoutOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Find out whether proofs are of this model, this input and this output.

    Exit code 0: they are; 1: they are not, or stand on a local test SRS that is not allowed; 2: unusable.
    """
    from decentral.launch.circuits import Reference

    reference, limits = Reference(srs, local=True), limits_of(memory, timeout)
    found, chain = asyncio.run(
        _verify(folder, proof, given, reference, limits, network or folder, output, _nonce(nonce))
    )
    refused = None
    if identity is not None and identity.lower() != chain.identity.hex():
        refused = f"{folder}: is of the model {chain.identity.hex()}, not of {identity}"
    elif found.passed and found.simulated and not local:
        refused = f"{TEST}; allow it with --local-test-srs"
    say_verified(found, chain, refused, as_json)
    if refused is not None or not found.passed:
        raise typer.Exit(NOT_VALID)


@zk.command()
def contract(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the Solidity files go.")],
    solc: Annotated[Path | None, typer.Option(metavar="FILE", help="The Solidity compiler that compiles them.")] = None,
    srs: SrsOption = None,
    memory: MemoryOption = 8,
    timeout: TimeoutOption = 600,
    as_json: JsonOption = False,
) -> None:
    """Write a contract for each stage that verifies its proofs on an Ethereum chain.

    It says whether a proof holds for its instances. Whoever calls it compares instances, parameters and links.
    """
    from decentral.launch.circuits import Reference, load_circuits
    from decentral.zk.contract import write_contracts
    from decentral.zk.store import Store

    chain = load_circuits(folder)
    found = Reference(srs, local=True).pinned(Store(), chain)
    written = asyncio.run(write_contracts(chain, found, out, solc, limits=limits_of(memory, timeout)))
    say_contracts(written, chain, solc is not None, as_json)


@zk.command()
def card(
    folder: FolderArgument,
    signer: Annotated[str | None, typer.Option(metavar="ID", help="Who has to have signed it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what somebody vouches for of a model: its parameters, circuits and accuracy.

    Exit code 1: it does not hold for what lies beside it.
    """
    from decentral.launch.card import check_card
    from decentral.wire.identity import peer_id

    signed, wrong = check_card(folder)
    maker = peer_id(signed.public_key)
    if signer is not None and signer != maker:
        wrong.append(f"it was signed by {maker}, not by {signer}")
    say_card(signed, maker, wrong, as_json)
    if wrong:
        raise typer.Exit(NOT_VALID)


# ---- what is done --------------------------------------------------------------------------------------------------


def _nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        nonce = b""
    if len(nonce) != 32:
        raise UserError(f"--nonce {text}: is 64 hexadecimal digits, the 32 bytes of a task")
    return nonce


async def _prove(
    folder: Path, given: str, reference: Reference, limits: Limits, parallel: int, job: Path
) -> tuple[Chain, Proven, Asked]:
    from decentral.launch.circuits import load_artefacts, load_circuits
    from decentral.zk.proving import prove as proven_by
    from decentral.zk.store import Store
    from decentral.zk.verification import verify as verified_by
    from decentral.zk.worker import worker

    store, chain = Store(), load_circuits(folder)
    artefacts, srs = load_artefacts(folder, chain, store), reference.pinned(store, chain)
    tensor, asked = await asyncio.to_thread(_input, given, folder)
    proven = await proven_by(chain, artefacts, srs, [tensor], parallel=parallel, job=job, limits=limits, say=note)
    async with worker(limits) as alone:
        found = await verified_by(alone, chain, srs, proven.proofs, [tensor])
    if not found.passed:
        raise UserError(f"{job}: what was proved there does not hold ({found.detail}); delete it, and prove again")
    return chain, proven, asked


async def _verify(
    folder: Path,
    proof: Path,
    given: str,
    reference: Reference,
    limits: Limits,
    network: Path,
    output: Path | None,
    nonce: bytes | None,
) -> tuple[Verified, Chain]:
    from decentral.launch.circuits import load_circuits
    from decentral.zk.bundle import Bundle
    from decentral.zk.store import Store
    from decentral.zk.verification import Verified
    from decentral.zk.verification import verify as verified_by
    from decentral.zk.worker import worker

    chain = load_circuits(folder)
    srs = reference.pinned(Store(), chain)
    tensor, _ = await asyncio.to_thread(_input, given, network)
    claimed = None if output is None else [await asyncio.to_thread(_claimed, output)]
    try:
        bundle = Bundle.decode(await asyncio.to_thread(proof.read_bytes))
    except OSError as error:
        raise UserError(f"{proof}: cannot be read ({error.strerror or error})") from error
    except Malformed as error:
        return Verified(False, f"{proof}: {error}", chain.local), chain
    async with worker(limits) as alone:
        return await verified_by(alone, chain, srs, bundle, [tensor], outputs=claimed, nonce=nonce), chain


def _input(word: str, folder: Path) -> Any:
    """The tensor, and what the person called it."""
    from decentral.run.directory import STAGES
    from decentral.serving.asking.inputs import read_inputs
    from decentral.serving.stages.model import FILE, Network

    here = folder if folder.is_dir() else folder.parent
    place = here / STAGES if (here / STAGES / FILE).is_file() else here
    batch, asked = read_inputs([word], Network.load(place))
    if len(batch) != 1:
        raise UserError(f"{word}: is {len(batch)} inputs; one is proved at a time")
    return batch[0], asked[0]


def _claimed(file: Path) -> Any:
    """What a model is said to have answered, in all its digits."""
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float64))
        (tensor,) = load_file(file).values()
        return tensor.double()
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"--output {file}: is no tensor that can be read ({error})") from error


def _write(out: Path, proofs: Bundle) -> None:
    from decentral.files import write_atomic

    try:
        write_atomic(out, proofs.encoded())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from error
