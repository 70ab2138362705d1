"""Who answers and does not prove it is caught, for what its class says, and another replica's proof is taken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from decentral.serving.adversaries.catalogue import BEHAVIOURS, OF_PROOFS
from decentral.serving.asking.proving import State
from decentral.serving.asking.replicas import Patience
from decentral.serving.client import Client
from decentral.trust.evidence import Kind
from decentral.trust.policy import Policy
from decentral.trust.receipt import verify
from tests.serving.proved import ProvedCluster, X, after, served_by_the_first

PROVED = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}), allow_simulated=True)
WORDS = {
    "proof-of-another-input": "is about another input",
    "damaged-proof": "does not hold",
    "stale-proof": "not signed for this task",
    "foreign-srs": "the SRS that came with them is not the one",
    "withheld-proof": "sent no proof of it in time",
}
"""What is said of each."""
QUICK = ("proof-of-another-input", "damaged-proof")


def test_each_is_tried_here() -> None:
    assert set(WORDS) == set(OF_PROOFS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in WORDS]
)
async def test_who_proves_something_else_is_blamed_and_another_proves_the_answer(
    proved: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    served_by_the_first(monkeypatch)
    liar: Any = BEHAVIOURS.resolve(name)
    made: ProvedCluster = await proved(liars={"stage-1-a": liar})
    # The first part's proof waits, so that the liar's own SRS is the one that is looked at.
    found = asyncio.Event()
    honest = made.services["stage-0-a"].proved
    monkeypatch.setattr(honest, "proofs", after(found, honest.proofs))
    patience = Patience(prove=10.0) if name.startswith("withheld") else None
    async with Client.connect(made.folder, policy=PROVED, patience=patience) as client:
        prediction = await client.predict(X[:1], say=lambda each: found.set() if each.state is State.FAILED else None)
    (fault,) = prediction.faults
    assert (made.node(fault.node), fault.kind) == ("stage-1-a", liar.earns)
    assert WORDS[name] in fault.detail
    assert prediction.proved is not None
    assert made.node(prediction.proved.provers["stage-1"][0]) in ("stage-1-b", "stage-1-c")
    assert verify(prediction.receipt.encode(), made.folder / "trust.toml", PROVED).valid


async def test_who_is_asked_for_no_proof_is_honest(proved: Any) -> None:
    made: ProvedCluster = await proved(liars={"stage-1-a": BEHAVIOURS.resolve("damaged-proof")})
    async with Client.connect(made.folder) as client:
        assert (await client.predict(X)).faults == ()
