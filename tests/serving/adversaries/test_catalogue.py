"""Behaviours have names, say what they do, and are known to nothing that serves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.serving.adversaries import behaviours, provers
from decentral.serving.adversaries.behaviours import Adversary
from decentral.serving.adversaries.catalogue import BEHAVIOURS, OF_PROOFS
from decentral.serving.stages.proved import ProvedService
from decentral.trust.evidence import FaultKind


@pytest.mark.parametrize("name", BEHAVIOURS.names())
def test_a_behaviour_says_in_a_line_what_it_does_and_what_it_earns(name: str) -> None:
    kind = BEHAVIOURS.resolve(name)
    assert isinstance(kind, type)
    assert issubclass(kind, ProvedService if name in OF_PROOFS else Adversary)
    assert kind.__doc__
    assert len(kind.__doc__.splitlines()) == 1
    assert kind.earns is None or kind.earns in FaultKind


def test_every_adversary_has_a_name() -> None:
    named = {BEHAVIOURS.resolve(name) for name in BEHAVIOURS.names()}
    known = [*vars(behaviours).values(), *vars(provers).values()]
    made = {value for value in known if isinstance(value, type) and issubclass(value, Adversary | ProvedService)}
    assert named == made - {Adversary, ProvedService}


def test_a_name_that_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="wrong-output"):
        BEHAVIOURS.check("wrong-outputs")


def test_what_serves_does_not_know_them(root: Path) -> None:
    """A name in the catalogue is the one way to them."""
    files = [path for path in (root / "decentral").rglob("*.py") if path.parent.name != "adversaries"]
    assert files
    knows = re.compile(r"import.*adversaries|adversaries(?!\.catalogue)[.\w]* import")
    assert not [path for path in files if knows.search(path.read_text())]
