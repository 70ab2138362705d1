"""What a circuit is made with, and ezkl's settings in the one form in which they are pinned.

ezkl writes some lists of its settings in an order of chance, and that order goes into the key: they are sorted before
anything is compiled. What it writes beside them, a time, is set to zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from decentral import canonical
from decentral.errors import Malformed, Refusal, UserError

VERSION = "23.0.5"
"""Of ezkl: another writes other settings, keys and proofs."""
SORTED = ("required_lookups", "required_range_checks")
MOST_BITS = 126
"""Of a number in a circuit; ezkl counts in 127 and a sign."""
LARGEST_LOGROWS = 26
"""Of the ceremony's files."""


class Visibility(Enum):
    """Who sees a tensor. A circuit's parameters are FIXED or COMMITTED, its inputs and outputs PUBLIC or COMMITTED."""

    PUBLIC = "public"
    """It stands in the proof."""
    COMMITTED = "polycommit"
    """Its KZG commitment stands in the proof, unblinded: what has few possible values can be guessed from it."""
    FIXED = "fixed"
    """It is part of the key."""

    @classmethod
    def of_parameters(cls, word: str) -> Visibility:
        """Raises UserError for any that would not tell which model ran."""
        if word == "private":
            raise UserError(
                "parameters cannot be 'private': such a proof says that some model gives this output, and for every "
                "output there is one; use 'fixed' (the key depends on them) or 'polycommit' (a commitment to them "
                "stands in the proof)"
            )
        if word not in (cls.FIXED.value, cls.COMMITTED.value):
            raise UserError(f"parameters are 'fixed' or 'polycommit', not {word!r}")
        return cls(word)


def unambiguous(base: int, legs: int) -> bool:
    """Whether numbers in so many digits are few beside the field's 2^253, so that each has one way to be written, and
    so have sums of products of them: else a prover could choose the sign that a ReLU finds."""
    return 0 < legs <= MOST_BITS and base > 1 and base**legs <= 1 << MOST_BITS


@dataclass(frozen=True, slots=True)
class Arguments:
    """What decides a circuit beside the model's graph and numbers. Scales are in bits: 7 is steps of 1/128.

    `rebase`: a tensor is brought back to the input's scale when its own exceeds it this many times. `columns`: inner
    columns of the circuit; 2 is good, 16 takes ten times as long. Numbers are checked to be in range in `legs` digits
    of base `base`: 2**logrows must exceed it. `checked`: whether inputs and outputs are checked to be in range too; a
    verifier that brings its own input, and takes the rest from proofs, loses nothing without. `lookups`: the range of
    tables, where an operator needs one.
    """

    input: Visibility = Visibility.PUBLIC
    output: Visibility = Visibility.PUBLIC
    parameters: Visibility = Visibility.FIXED
    input_scale: int = 7
    parameter_scale: int = 7
    rebase: int = 1
    logrows: int = 15
    columns: int = 2
    base: int = 2**14
    legs: int = 2
    checked: bool = True
    lookups: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.parameters is Visibility.PUBLIC:
            raise UserError("parameters that stand in every proof are not supported: use 'fixed' or 'polycommit'")
        if Visibility.FIXED in (self.input, self.output):
            raise UserError("inputs and outputs of a circuit are 'public' or 'polycommit'")
        if not 1 <= self.logrows <= LARGEST_LOGROWS:
            raise UserError(f"logrows must be between 1 and {LARGEST_LOGROWS}, not {self.logrows}")
        if not unambiguous(self.base, self.legs):
            raise UserError(
                f"legs: {self.legs} digits of base {self.base} are more than {MOST_BITS} bits, of which a proof would "
                "say nothing for certain: ask for fewer, and rescale more often"
            )

    def encoded(self) -> dict[str, Any]:
        """As `backend.settings` takes them."""
        return {
            "input_visibility": self.input.value,
            "output_visibility": self.output.value,
            "param_visibility": self.parameters.value,
            "input_scale": self.input_scale,
            "param_scale": self.parameter_scale,
            "scale_rebase_multiplier": self.rebase,
            "logrows": self.logrows,
            "num_inner_cols": self.columns,
            "decomp_base": self.base,
            "decomp_legs": self.legs,
            "ignore_range_check_inputs_outputs": not self.checked,
            "disable_freivalds": True,  # see `Settings.linked`
            "lookup_range": list(self.lookups),
        }


def canonical_settings(written: Mapping[str, Any]) -> bytes:
    """The settings as they are compiled, pinned and hashed. Raises Malformed for those of another ezkl."""
    if written.get("version") != VERSION:
        raise Malformed(Refusal.MALFORMED, f"settings of ezkl {written.get('version')}, not {VERSION}")
    settings = {**written, "timestamp": 0}
    for name in SORTED:
        settings[name] = sorted(settings[name], key=canonical.encode)
    products = settings["einsum_params"]
    settings["einsum_params"] = {**products, "equations": sorted(products["equations"], key=canonical.encode)}
    return canonical.encode(settings)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is read of pinned settings. `shapes`: of the public tensors, inputs first."""

    encoded: bytes

    def __post_init__(self) -> None:
        """Raises Malformed unless these are settings in their one form."""
        try:
            same = canonical_settings(self._decoded()) == self.encoded
        except (KeyError, TypeError, AttributeError) as error:
            raise Malformed(Refusal.MALFORMED, f"no settings of a circuit ({error})") from None
        if not same:
            raise Malformed(Refusal.MALFORMED, "settings that are not in the one form in which they are pinned")

    def _decoded(self) -> Any:
        return canonical.decode(self.encoded)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encoded).hexdigest()

    @property
    def logrows(self) -> int:
        return int(self._decoded()["run_args"]["logrows"])

    @property
    def rows(self) -> int:
        return int(self._decoded()["num_rows"])

    @property
    def input_scales(self) -> tuple[int, ...]:
        return tuple(self._decoded()["model_input_scales"])

    @property
    def output_scales(self) -> tuple[int, ...]:
        return tuple(self._decoded()["model_output_scales"])

    @property
    def linked(self) -> bool:
        """Whether the numbers that every operator takes are the ones that another gave.

        ezkl's own check by Freivalds' method has cells of its own for a product, and no constraint says that what goes
        on is the same: whoever proves chooses it. Then a proof says nothing of the layers before.
        """
        return int(self._decoded()["einsum_params"]["total_einsum_col_size"]) == 0

    @property
    def tables(self) -> bool:
        """Whether an operator is looked up in a table, whose range inputs decide; ranges of numbers are no such."""
        return bool(self._decoded()["required_lookups"])

    @property
    def ranged(self) -> bool:
        """Whether numbers are checked to be in a range, by themselves or by a table."""
        return self.tables or bool(self._decoded()["required_range_checks"])

    @property
    def unambiguous(self) -> bool:
        """See the function of this name."""
        given = self._decoded()["run_args"]
        return unambiguous(int(given["decomp_base"]), int(given["decomp_legs"]))

    @property
    def lookups(self) -> tuple[int, int]:
        low, high = self._decoded()["run_args"]["lookup_range"]
        return int(low), int(high)

    @property
    def arguments(self) -> Arguments:
        """Those that make these settings of the same graph and numbers. Raises Malformed, UserError."""
        given = self._decoded()["run_args"]
        inputs, parameters, outputs = self.visibilities
        return Arguments(
            inputs,
            outputs,
            parameters,
            given["input_scale"],
            given["param_scale"],
            given["scale_rebase_multiplier"],
            given["logrows"],
            given["num_inner_cols"],
            given["decomp_base"],
            given["decomp_legs"],
            not given["ignore_range_check_inputs_outputs"],
            self.lookups,
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(shape) for shape in self._decoded()["model_instance_shapes"])

    @property
    def visibilities(self) -> tuple[Visibility, Visibility, Visibility]:
        """Of inputs, parameters and outputs. Raises Malformed for one that no circuit of ours has."""
        words = {"Public": Visibility.PUBLIC, "Fixed": Visibility.FIXED, "KZGCommit": Visibility.COMMITTED}
        given = self._decoded()["run_args"]
        named = [given[f"{part}_visibility"] for part in ("input", "param", "output")]
        if unknown := [str(word) for word in named if not isinstance(word, str) or word not in words]:
            raise Malformed(Refusal.MALFORMED, f"a circuit with something {unknown[0]}")
        inputs, parameters, outputs = (words[word] for word in named)
        if parameters is Visibility.PUBLIC or Visibility.FIXED in (inputs, outputs):
            raise Malformed(Refusal.MALFORMED, f"a circuit with {', '.join(named)} inputs, parameters and outputs")
        return inputs, parameters, outputs
