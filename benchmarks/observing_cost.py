"""What it costs to be looked at: events read and counted, a scrape, a stream, and a call that is traced.

    python -m benchmarks.observing_cost --json observing.json

Times are of this process's own processor, so that they hold on a busy machine too. The journals are made up: as long as
those of a run of so many peers and rounds, eight events a round.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider

from decentral.launch.observing.exposition import Exposition
from decentral.launch.observing.lines import Lines
from decentral.launch.observing.tracing import Spans
from decentral.run.directory import peer_name
from decentral.run.journal import FILE, NODES
from decentral.run.metrics import Metrics
from decentral.wire.messages import PeerId
from decentral.wire.tracing import UNTRACED, Tracing

SENT = {"model": 1, "control": 1, "evidence": 0, "total": 2}
ROUND: tuple[dict[str, object], ...] = (
    {"event": "phase", "phase": "train"},
    {"event": "trained", "loss": 0.5, "samples": 80, "seconds": 0.2},
    {"event": "phase", "phase": "exchange"},
    {"event": "exchanged", "received": [], "missing": [], "seconds": 0.1},
    {"event": "phase", "phase": "merge"},
    {"event": "merged", "weights": {}, "moved": None, "seconds": 0.1},
    {"event": "evaluated", "accuracy": 0.5, "loss": 0.4, "seconds": 0.1},
    {"event": "round", "bytes": SENT},
)
CALLS = 5000


def write_journals(folder: Path, peers: int, rounds: int) -> None:
    for peer in range(peers):
        path = folder / NODES / peer_name(peer) / FILE
        path.parent.mkdir(parents=True)
        told = (
            {"t": float(round), "peer": peer, **event, "round": round}
            for round in range(1, rounds + 1)
            for event in ROUND
        )
        path.write_text("".join(f"{json.dumps(event)}\n" for event in told))


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process's processor."""
    began = time.process_time()
    work()
    return time.process_time() - began


def looked_at(peers: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        write_journals(Path(place), peers, rounds)
        metrics = Metrics()
        lines, exposition = Lines(Path(place), None, metrics.take), Exposition(metrics)
        read = timed(lines.poll)
        told = 0

        def stream() -> None:
            nonlocal told
            while found := lines.after(told):
                told = found[-1][0]

        return {
            "events": len(lines),
            "events_per_second": len(lines) / read,
            "scrape_seconds": timed(exposition.text),
            "look_seconds": timed(lines.poll),
            "streamed_per_second": len(lines) / timed(stream),
        }


def call_seconds(tracing: Tracing) -> float:
    """Of one call, at both ends, beside the call itself."""
    here, there = PeerId("here"), PeerId("there")

    def calls() -> None:
        for _ in range(CALLS):
            with tracing.calling("Ping", there) as metadata, tracing.called("Ping", here, lambda: metadata or ()):
                continue

    return timed(calls) / CALLS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    found = looked_at(given.peers, given.rounds)
    found["traced_call_seconds"] = call_seconds(Spans(TracerProvider(shutdown_on_exit=False).get_tracer("benchmark")))
    found["untraced_call_seconds"] = call_seconds(UNTRACED)
    print(f"{found['events']:,.0f} events of {given.peers} peers")
    print(f"read, numbered and counted   {found['events_per_second']:>10,.0f} a second")
    print(f"streamed from the beginning  {found['streamed_per_second']:>10,.0f} a second")
    print(f"a scrape                     {1e3 * found['scrape_seconds']:>10.1f} ms")
    print(f"a look when nothing is new   {1e3 * found['look_seconds']:>10.1f} ms")
    print(f"a traced call, both ends     {1e6 * found['traced_call_seconds']:>10.1f} us")
    print(f"the same where nobody traces {1e6 * found['untraced_call_seconds']:>10.1f} us")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
