"""How a stage may be told to misbehave, by name. Free of torch until one does.

Simulated liars, to measure what a client's checks are worth: a recipe that names one says so wherever it is shown.
"""

from __future__ import annotations

from decentral.registry import Registry

_HERE = "decentral.serving.adversaries.behaviours"
_PROVERS = "decentral.serving.adversaries.provers"
OF_PROOFS = {
    "proof-of-another-input": f"{_PROVERS}:ProofOfAnotherInput",
    "damaged-proof": f"{_PROVERS}:DamagedProof",
    "stale-proof": f"{_PROVERS}:StaleProof",
    "foreign-srs": f"{_PROVERS}:ForeignSrs",
    "withheld-proof": f"{_PROVERS}:WithheldProof",
}
"""Of those who answer as they should, and do not prove it: constructors as that of `serving.stages.proved`."""
BEHAVIOURS = Registry(
    "behaviour",
    {
        "wrong-output": f"{_HERE}:WrongOutput",
        "wrong-model": f"{_HERE}:WrongModel",
        "lower-precision": f"{_HERE}:LowerPrecision",
        "copied-commitment": f"{_HERE}:CopiedCommitment",
        "withheld-commitment": f"{_HERE}:WithheldCommitment",
        "withheld-reveal": f"{_HERE}:WithheldReveal",
        "withheld-tensors": f"{_HERE}:WithheldTensors",
        "equivocation": f"{_HERE}:Equivocation",
        "drift": f"{_HERE}:Drift",
        "replayed-evidence": f"{_HERE}:ReplayedEvidence",
        "stale-epoch": f"{_HERE}:StaleEpoch",
        "crash": f"{_HERE}:Crash",
        "defection": f"{_HERE}:Defection",
        "slow": f"{_HERE}:Slow",
        **OF_PROOFS,
    },
)
"""Constructors as that of `serving.stages.stage.StageService`, with options of their own beside what it takes."""
