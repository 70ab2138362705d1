"""What a serving recipe says of the circuits that prove its answers. Torch-free.

proofs: local-test
proofs: {srs: FILE, scale: 7, parameter_scale: 7}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from decentral.run.choice import Section
from decentral.zk.arguments import LARGEST_LOGROWS

LOCAL_TEST, CEREMONY = "local-test", "ceremony"
Bits = Annotated[int, Field(ge=1, le=20)]


class Proving(Section):
    """Of every part that peers compute; see `decentral zk setup`, whose options these are."""

    srs: str
    """`local-test`: made on this machine, whose owner can forge; `ceremony`: that of the store; or its file."""
    parameters: Literal["fixed", "polycommit"] = "fixed"
    """In the key, or committed to: then one key is for every checkpoint."""
    scale: Bits = 7
    """Bits of the inputs after the point."""
    parameter_scale: Bits = 7
    """Bits of the parameters after the point."""
    rescale: bool = True
    """False: numbers keep all their bits, for cheaper circuits; `rebase`, `legs` and `base` say nothing then."""
    rebase: Annotated[int, Field(ge=1, le=10**6)] = 1
    """Tensors are rescaled when this far above the input."""
    legs: Annotated[int, Field(ge=1, le=126)] = 2
    """Digits of the numbers that are checked to be in range."""
    base: Annotated[int, Field(ge=2, le=2**LARGEST_LOGROWS)] = 2**14
    """Of those digits."""
    logrows: Annotated[int, Field(ge=1, le=LARGEST_LOGROWS)] | None = None
    """Logarithm of the rows, at least; null: as few as are needed."""
    memory: Annotated[float, Field(gt=0, le=2**20)] = 8.0
    """GiB that ezkl may have at a time, here and at each node."""
    timeout: Annotated[float, Field(gt=0, le=1e6)] = 3600.0
    """Seconds for each step of ezkl's."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """Takes the SRS alone."""
        if isinstance(value, str):
            return {"srs": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"must be {LOCAL_TEST}, {CEREMONY}, the file of an SRS, or keys with srs, not {value!r}")
        if "srs" not in value:
            raise ValueError(f"needs srs: {LOCAL_TEST}, {CEREMONY} or a file")
        return value

    @property
    def file(self) -> str | None:
        """The SRS, where it is named by its file."""
        return None if self.srs in (LOCAL_TEST, CEREMONY) else self.srs
