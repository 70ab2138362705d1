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
        "epidemic": "decentral.algorithms.epidemic:Epidemic",
        "sgp": "decentral.algorithms.sgp:SGP",
        "gradient-tracking": "decentral.algorithms.gradient_tracking:GradientTracking",
        "dimat": "decentral.algorithms.dimat:DIMAT",
        "modest": "decentral.algorithms.modest:MoDeST",
        "experts": "decentral.algorithms.experts:Experts",
        "split": "decentral.algorithms.split:Split",
    },
)

DRAWING = frozenset({"modest"})
"""Those in which a round has few participants, so that peers stand at different rounds."""

SPLIT = frozenset({"split"})
"""Those of two peers with one network between them, of whom the second has no data."""

APART = DRAWING | SPLIT | {"experts"}
"""Those whose peers stand at different rounds, so that each goes on from its own newest one."""

SERVED = frozenset({"experts"})
"""Those whose peers keep a model each that they serve afterwards."""

MEAN_ALONE = {
    "sgp": "its weights come back only if sums are kept",
    "gradient-tracking": "its corrections cancel only if sums are kept",
    "dimat": "it averages models that it has aligned",
    "split": "nothing is averaged",
}
"""Algorithms that work with `averaging.rule: mean` alone, and why."""

EXACT_ALONE = {
    "sgp": "its weights come back only if what is sent is what arrives",
    "gradient-tracking": "its corrections cancel only if what is sent is what arrives",
    "experts": "an expert is sent once, as it will be served",
    "split": "it sends no models",
}
"""Algorithms that work with `exchange.compression: none` alone, and why."""

WHOLE_ALONE = {
    "dimat": "units are matched over whole models",
}
"""Algorithms that do not work with parts of models (`exchange.compression: top-k`), and why."""

NO_AGGREGATE = {
    **dict.fromkeys(("dpsgd", "gossip", "epidemic", "sgp", "gradient-tracking"), "every peer has another average"),
    "dimat": "every peer has another average",
    **dict.fromkeys(("isolated", "experts", "split"), "nothing is averaged"),
}
"""Algorithms that have no use for `averaging.outer`, and why."""
