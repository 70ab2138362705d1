"""How fast this machine proves, next to the one that costs were fitted on: one small proof tells.

Processor seconds are compared and not those of the clock, so that other work on the machine changes little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import torch
from torch import nn

from decentral.files import write_atomic
from decentral.zk.arguments import VERSION
from decentral.zk.cost import Cost, Size
from decentral.zk.proving import prove
from decentral.zk.setup import Options, setup
from decentral.zk.store import Store
from decentral.zk.stretches import NEVER
from decentral.zk.worker import Limits

FILE = "machine.json"
"""In the store: it is of this machine, as the keys are."""
LOGROWS, INPUTS, OUTPUTS = 15, 1024, 10


async def measure_machine(
    store: Store, *, limits: Limits | None = None, say: Callable[[str], None] = lambda words: None
) -> float:
    """Proves a linear layer, and records the processor seconds of that over those that are predicted.

    Half a minute where there is no SRS yet, a few seconds after that. Raises Unproven, UserError.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, image = nn.Linear(INPUTS, OUTPUTS).eval(), torch.randn(1, INPUTS)
    options = Options(rebase=NEVER, checked=False, logrows=LOGROWS)
    chain, made, srs = await setup([layer], [image], store.local_srs, store, options, limits=limits, say=say)
    say("a small proof")
    proven = await prove(chain, made, srs, [image[0]], limits=limits)
    (usage,) = proven.usage
    assert usage is not None
    factor = usage.cpu / Cost.of(Size.of(chain.circuits[0].settings)).prove
    write_atomic(store.root / FILE, json.dumps({"factor": round(factor, 3), "ezkl": VERSION}).encode() + b"\n")
    return factor


def recorded_machine(store: Store) -> float | None:
    """What was recorded last, of this ezkl; None where there is nothing that can be read."""
    try:
        found = json.loads((store.root / FILE).read_bytes())
        factor, version = float(found["factor"]), found["ezkl"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return factor if version == VERSION and 0 < factor < math.inf else None
