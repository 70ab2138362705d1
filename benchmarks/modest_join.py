"""What it costs a peer to join a run of MoDeST that goes on: seconds and bytes until it is welcomed, drawn, averaged.

    python -m benchmarks.modest_join [--peers 100 1000] [--json FILE]

In the simulator, with the null learner, models of 341 KB and the default sampling. Some peers come one after the other
while the others train. Each sends its signed record to as many peers as a sample has; the first answer brings all that
is known of the others (the view). Then it waits for chance to draw it: a peer is drawn once in n / s rounds on average.
With the aggregate that it is to train on it takes part; its own model is in the next average. Bytes are those that it
sends and those that are sent to it. Medians over the peers that join.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.modest_scale import MODEL_BYTES, SAMPLES, STEADY
from decentral.errors import DecentralError
from decentral.files import write_atomic
from decentral.launch.engine import Options, execute
from decentral.run.journal import Event
from decentral.run.recipe import load_recipe
from decentral.wire.identity import Identity
from decentral.wire.memory import MemoryNetwork, MemoryTransport
from decentral.wire.messages import PeerId

JOINERS, APART = 7, 3.0
"""How many join; virtual seconds between two of them. The first does once views are steady."""
DRAWS = 6
"""Times that a peer is drawn on average in the rounds that are simulated after the joins."""
ROUND = 0.6
"""Virtual seconds of a round, about: it decides how many are simulated."""


@dataclass
class Bytes:
    """To and from a peer so far."""

    letters: int = 0
    models: int = 0


@dataclass
class Joiner:
    """When something happened to a peer (virtual seconds, rounds that others had averaged), after so many bytes."""

    came: float
    bytes: Bytes = field(default_factory=Bytes)
    steps: dict[str, tuple[float, int, Bytes]] = field(default_factory=dict)

    def reach(self, step: str, at: float, round: int) -> None:
        self.steps.setdefault(step, (at - self.came, round, Bytes(**vars(self.bytes))))


@dataclass(frozen=True)
class Cost:
    """Medians: seconds and bytes until the welcome; seconds, rounds and bytes from there to the first training; the
    model's bytes among them; seconds from there until the peer's own model has been averaged."""

    peers: int
    expected: float
    drawn: int
    welcome_seconds: float
    welcome_bytes: float
    wait_seconds: float
    wait_rounds: float
    wait_letters: float
    model_bytes: float
    train_seconds: float


def measure(peers: int) -> Cost:
    """Of one run. Raises DecentralError."""
    size = load_recipe("modest-digits", (f"peers={peers}", "sampling.size=null")).sample
    first = ROUND * STEADY * peers / size
    joiners = {peers - 1 - number: Joiner(first + APART * number) for number in range(JOINERS)}
    with tempfile.TemporaryDirectory(prefix="decentral-join-") as folder:
        churn = Path(folder) / "churn.csv"
        lines = [f"{joiner.came},{peer},join" for peer, joiner in joiners.items()]
        churn.write_text("\n".join(["seconds,peer,event", *lines]) + "\n")
        rounds = round((first + APART * JOINERS) / ROUND + DRAWS * peers / size)
        recipe = load_recipe(
            "dimat-digits",  # of which the null learner leaves nothing but the name
            (
                "algorithm=modest",
                f"learner={{name: null, samples: {SAMPLES}, model_bytes: {MODEL_BYTES}}}",
                f"peers={peers}",
                f"rounds={rounds}",
                f"evaluation.every={rounds}",
                f"checkpoint.every={rounds}",
                f"simulation.churn={{path: {churn}}}",
            ),
        )
        newest = 0

        def observe(event: Event) -> None:
            nonlocal newest
            joiner = joiners.get(event["peer"])
            if event["event"] == "merged":
                newest = max(newest, event["round"])
                for peer in joiners.keys() & set(map(int, event["weights"])):
                    joiners[peer].reach("averaged", event["t"], newest)
            elif joiner is not None and event["event"] == "started":
                joiner.reach("welcomed", event["t"], newest)
            elif joiner is not None and event["event"] == "phase" and event["phase"] == "train":
                joiner.reach("drawn", event["t"], newest)

        carry, index_of = (
            MemoryNetwork.carry,
            {Identity.from_seed(f"{recipe.seed}/{p}".encode()).id: p for p in joiners},
        )

        def counting(
            network: MemoryNetwork, sender: PeerId, receiver: PeerId, size: int, *, queues: bool, **how: Any
        ) -> Coroutine[Any, Any, MemoryTransport]:
            for peer in index_of.keys() & {sender, receiver}:
                moved = joiners[index_of[peer]].bytes
                if queues:
                    moved.models += size
                else:
                    moved.letters += size
            return carry(network, sender, receiver, size, queues=queues, **how)

        with patch.object(MemoryNetwork, "carry", counting):
            execute(recipe, "sim", Options(out=Path(folder) / "run", observe=observe))
    return cost(peers, peers / recipe.sample, [joiner for joiner in joiners.values() if "averaged" in joiner.steps])


def cost(peers: int, expected: float, joiners: Sequence[Joiner]) -> Cost:
    """Of those whose model has been averaged before the end."""
    if not joiners:
        raise SystemExit(f"{peers} peers: none of those who joined was drawn before the end")
    stories = [(joiner.steps["welcomed"], joiner.steps["drawn"], joiner.steps["averaged"]) for joiner in joiners]
    median = statistics.median
    return Cost(
        peers=peers,
        expected=expected,
        drawn=len(joiners),
        welcome_seconds=median(welcomed[0] for welcomed, _, _ in stories),
        welcome_bytes=median(welcomed[2].letters for welcomed, _, _ in stories),
        wait_seconds=median(drawn[0] - welcomed[0] for welcomed, drawn, _ in stories),
        wait_rounds=median(drawn[1] - welcomed[1] for welcomed, drawn, _ in stories),
        wait_letters=median(drawn[2].letters - welcomed[2].letters for welcomed, drawn, _ in stories),
        model_bytes=median(drawn[2].models for _, drawn, _ in stories),
        train_seconds=median(averaged[0] - drawn[0] for _, drawn, averaged in stories),
    )


def show(costs: Sequence[Cost]) -> None:
    print(f"{'':>7}{'welcomed after':>22}{'drawn after another':>36}{'then':>21}{'averaged after':>17}{'':>11}")
    print(f"{'peers':>7}{'s':>10}{'letters, B':>12}{'rounds (n / s)':>17}{'s':>8}{'letters, B':>11}", end="")
    print(f"{'model with news, B':>21}{'another s':>17}{'joined':>11}")
    for one in costs:
        print(f"{one.peers:>7,}{one.welcome_seconds:>10.2f}{one.welcome_bytes:>12,.0f}", end="")
        print(f"{f'{one.wait_rounds:,.0f} ({one.expected:,.0f})':>17}{one.wait_seconds:>8.1f}", end="")
        print(f"{one.wait_letters:>11,.0f}{one.model_bytes:>21,.0f}{one.train_seconds:>17.2f}", end="")
        print(f"{f'{one.drawn} of {JOINERS}':>11}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if min(arguments.peers) < 2 * JOINERS:
        parser.error(f"--peers: {2 * JOINERS} or more, of whom {JOINERS} join")
    try:
        costs = [measure(peers) for peers in arguments.peers]
    except DecentralError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"virtual seconds, bytes to and from the peer; medians of those that were averaged, of {JOINERS} that join")
    show(costs)
    if arguments.json:
        write_atomic(arguments.json, json.dumps([asdict(one) for one in costs], indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
