"""Whether the live page stays fluent, and small: frame times while 100 peers write, and memory over an hour of events.

    python -m benchmarks.dashboard_frames [--peers 100] [--rate 10] [--seconds 30] [--hour 3600] [--json FILE]

Journals are written as peers write them, `--rate` lines a second each, into a run directory that `decentral dashboard`
shows to headless Chromium (Playwright drives the one that is installed: --chromium). The floor is the same browser, on
a page without scripts. Then an hour of the same events is written as fast as the disk takes it, and read by the same
page: the server's resident memory and the page's heap, after each has been told to collect its garbage.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from decentral.run.directory import RunDirectory, peer_name
from decentral.run.recipe import Recipe

REQUIRED = {"p95": 34.0, "slow": 0.01, "growth": 1.15}
"""Milliseconds of a frame; share of frames over 50 ms; memory after the hour beside that after a fifth of it."""
SLOW = 50.0
SETTLING = 3.0
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FRAMES = """seconds => new Promise(done => {
  const found = []; let before = performance.now(); const ends = before + 1000 * seconds;
  const next = now => {
    found.push(now - before); before = now;
    now < ends ? requestAnimationFrame(next) : done(found.slice(1));
  };
  requestAnimationFrame(next);
})"""


def lines(peer: int, round: int, at: float) -> Iterator[dict[str, Any]]:
    """Ten events of a peer's round, which lasts from `at` for one second."""
    sent = {"model": 203_304 * round, "control": 120 * round, "evidence": 0, "total": 203_424 * round}
    accuracy = 0.97 - 0.8 * 0.98 ** (round + peer % 7) - 0.002 * (peer % 11)
    for tenth, fields in enumerate(
        (
            {"event": "phase", "phase": "train"},
            {"event": "trained", "loss": 1.5 * 0.98**round, "samples": 14, "seconds": 0.2},
            {"event": "phase", "phase": "exchange"},
            {"event": "exchanged", "received": [], "missing": [], "seconds": 0.2},
            {"event": "phase", "phase": "merge"},
            {"event": "merged", "weights": {str(peer): 1.0}, "moved": None, "seconds": 0.1},
            {"event": "phase", "phase": "evaluate"},
            {"event": "evaluated", "accuracy": accuracy, "loss": 0.3, "seconds": 0.1},
            {"event": "round", "bytes": sent},
            {"event": "lost", "other": (peer + round) % 5} if (peer * 7 + round) % 97 == 0 else {"event": "note"},
        )
    ):
        yield {"t": round_to(at + tenth / 10), "peer": peer, "round": round, **fields}


def round_to(seconds: float) -> float:
    return float(f"{seconds:.3f}")


def encoded(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


class Peers:
    """Who writes."""

    def __init__(self, run: RunDirectory, count: int, stack: ExitStack) -> None:
        self.count, self.rounds, self.written = count, 0, 0
        self._files = [
            stack.enter_context(_made(run.journal_file(peer_name(peer))).open("ab", buffering=0))
            for peer in range(count)
        ]

    def live(self, rate: int, ended: threading.Event) -> None:
        """At their pace: every peer a line each 1 / rate seconds, in turn."""
        began, first = time.monotonic(), float(self.rounds)
        while not ended.is_set():
            self.rounds += 1
            rows = [list(lines(peer, self.rounds, first)) for peer in range(self.count)]
            for tenth in range(10):
                wait = began + (self.rounds - 1 + tenth / 10) * 10 / rate - time.monotonic()
                if wait > 0:
                    ended.wait(wait)
                now = round_to(time.monotonic() - began)
                for peer, file in enumerate(self._files):
                    file.write(encoded({**rows[peer][tenth], "t": now}))

    def replay(self, rounds: int) -> None:
        """As fast as the disk takes it, a second of the run for each round."""
        for file, peer in zip(self._files, range(self.count), strict=True):
            text = b"".join(
                encoded(event)
                for round in range(self.rounds + 1, self.rounds + rounds + 1)
                for event in lines(peer, round, float(round))
            )
            file.write(text)
        self.rounds += rounds
        self.written += 10 * rounds * self.count


def _made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@contextmanager
def dashboard(run: Path) -> Iterator[tuple[str, int]]:
    """Its address and its process."""
    command = [sys.executable, "-P", "-m", "decentral", "dashboard", str(run), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = ""
        while "}" not in said:
            said += process.stdout.readline().decode()
        yield json.loads(said)["url"], process.pid
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} tells nothing of its memory")


def heap(session: Any) -> float:
    """MiB of the page's script objects, without what is garbage."""
    session.send("HeapProfiler.collectGarbage")
    return float(session.send("Runtime.getHeapUsage")["usedSize"]) / (1 << 20)


def spent(pid: int) -> float:
    """Seconds of processor time of a process and all below it: the same however busy the machine is otherwise."""
    seconds, below = 0.0, [pid]
    for process in below:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for thread in Path(f"/proc/{process}/task").iterdir():
                below += map(int, (thread / "children").read_text().split())
        except OSError:  # it has ended
            continue
    return seconds


def spent_here() -> float:
    """Of this process alone, which plays the peers."""
    times = os.times()
    return times.user + times.system


def busy(session: Any) -> float:
    """Seconds that the page's main thread has been at tasks, on a processor or waiting for one."""
    return float(
        {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    )


def told(frames: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(frames, n=100)
    return {
        "frames": len(frames),
        "p50": cuts[49],
        "p95": cuts[94],
        "p99": cuts[98],
        "slow": sum(each > SLOW for each in frames) / len(frames),
    }


def folded(url: str) -> int:
    """Events that the server has taken in."""
    with urllib.request.urlopen(f"{url}state", timeout=60) as answer:
        return int(json.loads(answer.read())["now"]["events"])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    values = {"name": "watched", "algorithm": "dpsgd", "peers": arguments.peers, "rounds": 2 * arguments.hour + 600}
    recipe = Recipe.model_validate({**values, "topology": "exponential"})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = stack.enter_context(RunDirectory.create(folder / "run", recipe, "local"))
        peers = Peers(run, arguments.peers, stack)
        url, server = stack.enter_context(dashboard(run.path))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=SWITCHES)
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1280, "height": 2000})
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        floor = told(page.evaluate(FRAMES, arguments.seconds / 3))
        page.goto(url)
        ended = threading.Event()
        writing = threading.Thread(target=peers.live, args=(arguments.rate, ended))
        writing.start()
        time.sleep(SETTLING)
        work, began, load = busy(session), time.monotonic(), os.getloadavg()[0]
        cpu = {"server": spent(server), "all": spent(os.getpid()) - spent_here()}
        frames = told(page.evaluate(FRAMES, arguments.seconds))
        took = time.monotonic() - began
        share = (busy(session) - work) / took
        served, everything = spent(server) - cpu["server"], spent(os.getpid()) - spent_here() - cpu["all"]
        cores = {"server": served / took, "browser": (everything - served) / took}
        ended.set()
        writing.join()
        result: dict[str, Any] = {
            "floor": floor,
            "frames": frames,
            "main_thread": share,
            "memory": [],
            "cores": cores,
            "load": load,
        }
        before = folded(url)
        for part in range(10 if arguments.hour else 0):
            peers.replay(arguments.hour // 10)
            while folded(url) < before + peers.written:
                time.sleep(1.0)
            page.wait_for_timeout(1000)
            point = {"part": (part + 1) / 10, "server": resident(server), "page": heap(session)}
            result["memory"].append(point)
            print(
                f"{point['part']:.0%} of the hour  server {point['server']:.0f} MiB  page {point['page']:.1f} MiB",
                flush=True,
            )
        result["events"] = peers.written
    return result


def grown(memory: list[dict[str, float]], what: str) -> float:
    """Memory at the end beside that after a fifth of it."""
    return memory[-1][what] / memory[1][what] if memory else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--rate", type=int, default=10, help="lines that each peer writes in a second")
    parser.add_argument("--seconds", type=float, default=30, help="for which frames are counted")
    parser.add_argument("--hour", type=int, default=3600, help="seconds that are replayed; 0: none")
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    for name in ("floor", "frames"):
        row = result[name]
        print(
            f"{name:<7} p50 {row['p50']:.1f} ms  p95 {row['p95']:.1f} ms  p99 {row['p99']:.1f} ms  "
            f"over {SLOW:.0f} ms {row['slow']:.2%} of {row['frames']}"
        )
    print(f"the page's main thread is at tasks for {result['main_thread']:.0%} of the time (load {result['load']:.1f})")
    print("processor time: " + ", ".join(f"{who} {cores:.2f} cores" for who, cores in result["cores"].items()))
    growth = {what: grown(result["memory"], what) for what in ("server", "page")}
    print(
        f"after an hour ({result['events']:,} events) beside a fifth of it: "
        + ", ".join(f"{k} x {v:.2f}" for k, v in growth.items())
    )
    missed = [
        what
        for what, wrong in (
            ("p95", result["frames"]["p95"] > REQUIRED["p95"]),
            ("slow frames", result["frames"]["slow"] > REQUIRED["slow"]),
            ("memory", max(growth.values()) > REQUIRED["growth"]),
        )
        if wrong
    ]
    if arguments.json:
        arguments.json.write_text(
            json.dumps({**result, "growth": growth, "required": REQUIRED, "missed": missed}, indent=2)
        )
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
