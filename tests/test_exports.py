"""What people import from `decentral`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import decentral


@pytest.mark.parametrize("name", decentral.__all__)
def test_every_announced_name_is_there(name: str) -> None:
    assert getattr(decentral, name) is not None


def test_importing_costs_no_torch() -> None:
    code = "import sys, decentral; decentral.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registering_a_network_makes_its_name_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from decentral.models.catalogue import MODELS

    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    @decentral.register_model("line")
    def line(input_shape: tuple[int, ...], classes: int) -> tuple[tuple[int, ...], int]:
        return input_shape, classes

    assert MODELS.construct("line", (3,), 2) == ((3,), 2)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        decentral.nothing  # noqa: B018
