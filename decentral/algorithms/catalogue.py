"""The algorithms that recipes may name. Torch-free: recipes are checked before torch is imported."""

from __future__ import annotations

from decentral.registry import Registry

ALGORITHMS = Registry(
    "algorithm",
    {
        "isolated": "decentral.algorithms.isolated:Isolated",
        "fedavg": "decentral.algorithms.fedavg:FedAvg",
        "dpsgd": "decentral.algorithms.dpsgd:DPSGD",
        "gossip": "decentral.algorithms.gossip:Gossip",
        "sgp": "decentral.algorithms.sgp:SGP",
        "gradient-tracking": "decentral.algorithms.gradient_tracking:GradientTracking",
        "dimat": "decentral.algorithms.dimat:DIMAT",
    },
)
