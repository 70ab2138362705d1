"""What a recipe says of the evidence that its nodes show of their machines. Torch-free.

attestation: required
attestation: {mode: offered, simulate: sev-snp}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import model_serializer, model_validator

from decentral.attestation.report import Technology
from decentral.run.choice import Section

Mode = Literal["none", "offered", "required"]
MODES: tuple[Mode, ...] = get_args(Mode)
Simulated = Literal["tdx", "sev-snp"]
DEFAULT: Simulated = "tdx"


class Attesting(Section):
    """Of every node; which hardware there is shows when it starts."""

    mode: Mode
    """`offered`: nodes that serve show evidence to who asks; `required`: so does the policy of clients that have no
    other, and who is to train has to show some before it is let in."""
    simulate: Simulated = DEFAULT
    """What is played where there is no hardware."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """Takes the mode alone."""
        if isinstance(value, str) and value in MODES:
            return {"mode": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"must be {', '.join(MODES)}, or keys with mode, not {value!r}")
        if "mode" not in value:
            raise ValueError(f"needs mode: {', '.join(MODES)}")
        return value

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return self.mode if self.simulate == DEFAULT else {"mode": self.mode, "simulate": self.simulate}

    @property
    def shown(self) -> bool:
        """Whether nodes show evidence."""
        return self.mode != "none"

    @property
    def required(self) -> bool:
        return self.mode == "required"

    @property
    def technology(self) -> Technology:
        """That is played."""
        return Technology(self.simulate)
