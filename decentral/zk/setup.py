"""From the stages of a network to circuits, their keys, and what a verifier pins of them.

Settings are a function of a stage's graph, its numbers and `Arguments` alone: calibration on sample inputs chooses
arguments, and from them the settings are made anew. So anybody who has the parameters comes to the same keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decentral.errors import Malformed, Unproven, UserError
from decentral.zk.arguments import LARGEST_LOGROWS, VERSION, Arguments, Settings, Visibility, canonical_settings
from decentral.zk.circuit import Chain, Circuit, Slots, Wire, in_a_row
from decentral.zk.export import export
from decentral.zk.srs import SRS
from decentral.zk.store import Store, key_of
from decentral.zk.worker import DiskFull, Limits, Worker, worker

MODEL, SETTINGS, COMPILED, KEY, PROVING_KEY, PINNED = (
    "network.onnx",
    "settings.json",
    "compiled.ezkl",
    "verifying.key",
    "proving.key",
    "circuit.json",
)
FIRST_LOGROWS = 17
"""With which calibration starts; it goes down, and up where it must."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """Of a stage, see `Arguments`; of all stages alike where there is one for all.

    `logrows`: at least so many, None: as few as all stages need. `scale`: of the model's input.

    `margin`: how much further than the samples tables reach, where an operator needs one.
    """

    parameters: Visibility = Visibility.FIXED
    scale: int = 7
    parameter_scale: int = 7
    rebase: int = 1
    columns: int = 2
    base: int = 2**14
    legs: int = 2
    checked: bool = True
    logrows: int | None = None
    margin: float = 2.0


@dataclass(frozen=True, slots=True)
class Artefacts:
    """A circuit, and the folder of the store that proves it."""

    circuit: Circuit
    folder: Path

    @classmethod
    def load(cls, folder: Path) -> Artefacts:
        """Raises Malformed, OSError."""
        from decentral import canonical

        return cls(Circuit.decode(canonical.decode((folder / PINNED).read_bytes())), folder)


@dataclass(frozen=True, slots=True)
class Draft:
    """A stage whose circuit is decided and not yet made."""

    model: bytes
    settings: Settings
    example: tuple[tuple[float, ...], ...]
    wires: tuple[Wire, ...]

    def key(self, srs: SRS) -> str:
        """Of its folder in a store."""
        model = hashlib.sha256(self.model).hexdigest()
        return key_of({"model": model, "settings": self.settings.digest, "srs": srs.digest, "ezkl": VERSION})


async def draft(
    stages: Sequence[nn.Module],
    samples: Sequence[Tensor],
    options: Options | Sequence[Options] | None = None,
    *,
    wires: Sequence[Sequence[Wire]] | None = None,
    names: Sequence[str] | None = None,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> list[Draft]:
    """Decides scales and rows of each stage. `samples`: inputs of the model, [n, ...] each, representative.

    `wires`: as those of `Chain`; a stage without any takes the model's input; None: each stage takes all that the one
    before gives. `names`: what the stages are called. A stage reads its input in the scale in which it was written; all
    have the same rows. Raises UserError where that cannot be, Unproven for what ezkl cannot prove; both name the stage.
    """
    each = [options or Options()] * len(stages) if options is None or isinstance(options, Options) else [*options]
    if not stages or not samples or any(len(tensor) == 0 for tensor in samples):
        raise UserError("a circuit needs a stage, and a sample of its inputs")
    connected = None if wires is None else [tuple((source, output) for source, output in each) for each in wires]
    used = None if connected is None else {source for each in connected for source, _ in each}
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        async with worker(limits) as alone:
            drawn: list[_Drawn] = []
            for place, (stage, own) in enumerate(zip(stages, each, strict=True)):
                say(f"{_name(names, place)}: scales")
                taken = _row(drawn) if connected is None else connected[place]
                given = tuple(drawn[source].outputs[output] for source, output in taken) if taken else tuple(samples)
                last = place == len(stages) - 1 if used is None else place not in used
                wanted = Arguments(
                    input=Visibility.COMMITTED if taken else Visibility.PUBLIC,
                    output=Visibility.PUBLIC if last else Visibility.COMMITTED,
                    parameters=own.parameters if _has_parameters(stage) else Visibility.FIXED,
                    input_scale=own.scale,
                    parameter_scale=own.parameter_scale,
                    rebase=own.rebase,
                    logrows=own.logrows or FIRST_LOGROWS,
                    columns=own.columns,
                    base=own.base,
                    legs=own.legs,
                    checked=own.checked,
                )
                with _naming(_name(names, place)):
                    scales = [drawn[source].scales[output] for source, output in taken]
                    wanted = replace(wanted, input_scale=_scale(scales, own.scale))
                    model = Path(scratch) / f"stage-{place}.onnx"
                    drawn.append(await _drawn(alone, stage, model, wanted, given=given, wires=taken, own=own))
            logrows = max([one.arguments.logrows for one in drawn] + [one.logrows or 1 for one in each])
            return [await _drafted(alone, one, logrows) for one in drawn]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is known of a stage before all are: its inputs and outputs are those of the samples."""

    model: Path
    arguments: Arguments
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    scales: tuple[int, ...]
    wires: tuple[Wire, ...]


async def _drawn(
    alone: Worker,
    stage: nn.Module,
    model: Path,
    wanted: Arguments,
    *,
    given: tuple[Tensor, ...],
    wires: tuple[Wire, ...],
    own: Options,
) -> _Drawn:
    await asyncio.to_thread(export, stage, [tensor[:1] for tensor in given], model)
    arguments, found = wanted, await settings_of(alone, model, wanted)
    if own.logrows is None or found.tables:
        arguments, found = await _calibrated(alone, model, wanted, given, own.margin)
    outputs = await asyncio.to_thread(_outputs, stage, given)
    return _Drawn(model, arguments, given, outputs, found.output_scales, wires)


def _row(drawn: Sequence[_Drawn]) -> tuple[Wire, ...]:
    return tuple(in_a_row([*(len(each.outputs) for each in drawn), 0])[-1])


async def _drafted(alone: Worker, drawn: _Drawn, logrows: int) -> Draft:
    settings = await settings_of(alone, drawn.model, replace(drawn.arguments, logrows=logrows))
    return Draft(drawn.model.read_bytes(), settings, _example(drawn.inputs), drawn.wires)


def _example(inputs: Sequence[Tensor]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, tensor[0].flatten().tolist())) for tensor in inputs)


async def make(
    drafts: Sequence[Draft],
    srs: SRS,
    store: Store,
    *,
    names: Sequence[str] | None = None,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> list[Artefacts]:
    """Compiles the circuits and makes their keys, unless the store has them. Raises Unproven, UserError."""
    made = []
    for place, each in enumerate(drafts):
        if srs.logrows < each.settings.logrows:
            name = _name(names, place)
            raise UserError(f"{srs.path}: is for 2^{srs.logrows} rows, and {name} has 2^{each.settings.logrows}")

        async def build(folder: Path, each: Draft = each, name: str = _name(names, place)) -> None:
            with _naming(name):
                await _build(folder, each, srs, limits or Limits(), lambda words: say(f"{name}: {words}"))

        folder = await store.folder(each.key(srs), build)
        made.append(Artefacts.load(folder))
    return made


async def setup(
    stages: Sequence[nn.Module],
    samples: Sequence[Tensor],
    srs: Callable[[int], Awaitable[SRS]],
    store: Store,
    options: Options | Sequence[Options] | None = None,
    *,
    wires: Sequence[Sequence[Wire]] | None = None,
    names: Sequence[str] | None = None,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> tuple[Chain, list[Artefacts], SRS]:
    """Circuits of all stages: `draft`, then `make`. `srs`: gives the one for so many rows (their logarithm)."""
    drafts = await draft(stages, samples, options, wires=wires, names=names, limits=limits, say=say)
    say(f"SRS for 2^{drafts[0].settings.logrows} rows")
    found = await srs(drafts[0].settings.logrows)
    made = await make(drafts, found, store, names=names, limits=limits, say=say)
    return Chain(tuple(each.circuit for each in made), tuple(each.wires for each in drafts)), made, found


async def rebuilt(
    chain: Chain,
    stages: Sequence[nn.Module],
    samples: Sequence[Tensor],
    srs: SRS,
    store: Store,
    *,
    names: Sequence[str] | None = None,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> Chain:
    """The circuits that these stages come to with the arguments of pinned ones: the same, if they are the same model.

    Raises UserError where there are more or fewer stages, or they cannot be connected so; Unproven.
    """
    if len(stages) != len(chain.circuits):
        raise UserError(f"there are {len(stages)} stages, and {len(chain.circuits)} circuits")
    drafts, outputs = [], list[tuple[Tensor, ...]]()
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        async with worker(limits) as alone:
            for place, (stage, circuit, wires) in enumerate(zip(stages, chain.circuits, chain.wires, strict=True)):
                say(f"{_name(names, place)}: settings")
                try:
                    given = tuple(outputs[source][output] for source, output in wires) if wires else tuple(samples)
                except IndexError:
                    raise UserError(f"stage {place} takes what no stage of this model gives") from None
                model = Path(scratch) / f"stage-{place}.onnx"
                await asyncio.to_thread(export, stage, [tensor[:1] for tensor in given], model)
                outputs.append(await asyncio.to_thread(_outputs, stage, given))
                settings = await settings_of(alone, model, circuit.settings.arguments)
                drafts.append(Draft(model.read_bytes(), settings, _example(given), wires))
    made = await make(drafts, srs, store, names=names, limits=limits, say=say)
    return Chain(tuple(each.circuit for each in made), chain.wires)


async def settings_of(alone: Worker, model: Path, arguments: Arguments) -> Settings:
    """The settings that belong to a model and arguments, in the form in which they are pinned."""
    file = model.with_suffix(".settings")
    await alone.call("settings", model=str(model), output=str(file), arguments=arguments.encoded())
    try:
        return Settings(canonical_settings(json.loads(file.read_bytes())))
    except Malformed as error:
        raise Unproven(f"this ezkl cannot be used ({error})") from error


async def _calibrated(
    alone: Worker, model: Path, wanted: Arguments, inputs: Sequence[Tensor], margin: float
) -> tuple[Arguments, Settings]:
    """The arguments with the rows and tables that these inputs need, and the settings that belong to them.

    Calibration tries its scale for parameters too: its own settings would be those of another circuit.
    """
    settings, data = model.with_suffix(".draft"), model.with_suffix(".data")
    await alone.call("settings", model=str(model), output=str(settings), arguments=wanted.encoded())
    data.write_text(json.dumps({"input_data": [tensor.flatten().tolist() for tensor in inputs]}))
    await alone.call(
        "calibrate",
        data=str(data),
        model=str(model),
        settings=str(settings),
        scale=wanted.input_scale,
        rebase=wanted.rebase,
        margin=margin,
        max_logrows=LARGEST_LOGROWS,
    )
    found = Settings(canonical_settings(json.loads(settings.read_bytes())))
    arguments = replace(wanted, logrows=found.logrows, lookups=found.lookups)
    return arguments, await settings_of(alone, model, arguments)


async def _build(folder: Path, each: Draft, srs: SRS, limits: Limits, say: Say) -> None:
    """Fills a folder of the store."""
    paths = {name: str(folder / name) for name in (MODEL, SETTINGS, COMPILED, KEY, PROVING_KEY)}
    (folder / MODEL).write_bytes(each.model)
    (folder / SETTINGS).write_bytes(each.settings.encoded)
    say("compiling")
    async with worker(limits) as alone:
        await alone.call("compile_circuit", model=paths[MODEL], compiled=paths[COMPILED], settings=paths[SETTINGS])
        say("keys")
        await alone.call(
            "setup", compiled=paths[COMPILED], key=paths[KEY], proving_key=paths[PROVING_KEY], srs=str(srs.path)
        )
        say("commitments")
        witnessed = await witness(alone, folder, srs, each.example)
        slots, committed = _slots(witnessed["committed"])
        key = (folder / KEY).read_bytes()
        # Whoever has the key can measure this, so no prover is asked how long a proof is.
        circuit = Circuit(each.settings, key, srs.digest, slots, committed, 1)
        length = await alone.call(
            "proof_length", instances=circuit.instances, settings=paths[SETTINGS], key=paths[KEY], srs=str(srs.path)
        )
    from decentral import canonical

    (folder / PINNED).write_bytes(canonical.encode(replace(circuit, proof_bytes=length).encoded()))


async def witness(
    alone: Worker, folder: Path, srs: SRS, inputs: Sequence[Sequence[float | str]], output: Path | None = None
) -> Any:
    """`backend.witness` of a circuit in the store. `inputs`: floats, or field elements as ezkl writes them."""
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        data = Path(scratch) / "input.json"
        data.write_text(json.dumps({"input_data": [list(tensor) for tensor in inputs]}))
        return await alone.call(
            "witness",
            data=str(data),
            compiled=str(folder / COMPILED),
            output=str(output or Path(scratch) / "witness.json"),
            key=str(folder / KEY),
            srs=str(srs.path),
        )


def _slots(committed: Mapping[str, Sequence[Sequence[str]]]) -> tuple[Slots, tuple[bytes, ...]]:
    points = {part: tuple(len(each) for each in committed[part]) for part in ("inputs", "params", "outputs")}
    parameters = tuple(bytes.fromhex(point) for each in committed["params"] for point in each)
    return Slots(points["inputs"], sum(points["params"]), points["outputs"]), parameters


def _has_parameters(stage: nn.Module) -> bool:
    return any(True for _ in stage.parameters()) or any(True for _ in stage.buffers())


def _scale(scales: Sequence[int], first: int) -> int:
    """In which a stage reads all of its inputs."""
    if len(set(scales)) > 1:
        raise UserError(
            f"would take tensors in the scales {sorted(set(scales))}, and reads all in one: cut elsewhere, or bring "
            "every tensor back to the input's scale (rebase 1)"
        )
    return scales[0] if scales else first


def _name(names: Sequence[str] | None, place: int) -> str:
    return f"stage {place}" if names is None else names[place]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Of which stage an error is."""
    try:
        yield
    except DiskFull:
        raise  # of the store, which says so itself
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Unproven as error:
        raise Unproven(f"{name}: {error}") from error


def _outputs(stage: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        given = stage(*(tensor.clone() for tensor in inputs))
    return tuple(given) if isinstance(given, tuple | list) else (given,)
