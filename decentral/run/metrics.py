"""What a monitoring system counts of a cluster, folded from its events: names and labels by Prometheus's convention.

A journal tells everything from its beginning, so whoever reads it anew counts nothing twice and misses nothing; of a
finished run the totals are those of its summary. What a node counts in its own memory (`load`) begins at zero with
every start of it, and is added up over them.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from decentral.run.directory import peer_name
from decentral.run.journal import Event
from decentral.run.standing import Standings
from decentral.run.summary import PHASES

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of a phase's seconds."""
MOST_REASONS = 16
"""Reasons for which models were left out that are told apart: some are texts about what somebody else has sent."""
MOST_LETTERS = 80
"""Of a label's value."""
OTHER = "other"
KINDS = ("model", "control", "evidence")
"""What bytes carry."""
OUTCOMES = ("answered", "declined", "called_off")
"""How tasks end: with what was asked for, with a refusal, or because the client left."""


class Kind(StrEnum):
    """As Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name, what it means and what it is told apart by. `of`: the events that it is folded from."""

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...]
    of: str


def _counter(name: str, about: str, of: str, *labels: str) -> Metric:
    return Metric(f"decentral_{name}_total", Kind.COUNTER, about, ("node", *labels), of)


def _gauge(name: str, about: str, of: str, *labels: str) -> Metric:
    return Metric(f"decentral_{name}", Kind.GAUGE, about, ("node", *labels), of)


ROUNDS = _counter("rounds", "Rounds ended, those that were done again after a crash among them.", "round")
ROUND = _gauge("round", "The highest round that the node has ended.", "round, started")
PHASE = _gauge("phase", "1 for what the node is at, 0 for all that it has been at.", "phase, started, ...", "phase")
PHASE_SECONDS = Metric(
    "decentral_phase_seconds",
    Kind.HISTOGRAM,
    "Seconds that a phase of a round took; of training that was given up, until then.",
    ("node", "phase"),
    "trained, abandoned, exchanged, merged, evaluated",
)
BYTES = _counter(
    "bytes", "Bytes of messages after encoding, by what they carry.", "round, finished", "kind", "direction"
)
SAMPLES = _counter("trained_samples", "Training images seen.", "trained")
TRAINING_LOSS = _gauge("training_loss", "Mean loss of the last training.", "trained")
LOSS = _gauge("loss", "Loss on test images, at the last evaluation.", "evaluated")
ACCURACY = _gauge("accuracy", "Share of test images that were classified rightly, at the last evaluation.", "evaluated")
REFUSALS = _counter("refusals", "Messages of this node that another one refused.", "refused", "reason")
REJECTIONS = _counter("rejections", "Models that this node left out.", "rejected", "reason")
TURNED_AWAY = _counter("turned_away", "Calls of others that this node refused.", "load", "reason")
MISSING = _counter("missing_models", "Models of partners that did not come within a round.", "exchanged")
LOST = _counter("partners_lost", "Times that a partner was taken for lost.", "lost")
RETURNED = _counter("partners_returned", "Times that a partner that was lost came back.", "returned")
CUT_OFF = _counter("cut_offs", "Times that nothing came back from anybody, and the node waited.", "cut_off")
CRASHES = _counter("crashes", "Times that the node's process broke.", "crashed")
REJOINS = _counter("rejoins", "Times that the node came back into a session that had gone on.", "rejoined")
JOINED = _counter("joins", "Times that the node was added to the cluster.", "joined")
LEFT = _counter("leaves", "Times that the node left the cluster.", "left")
FAILURES = _counter("failures", "Times that the node gave up and said why.", "failed")
RENEWALS = _counter("certificate_renewals", "Certificates that the authority granted anew.", "renewed")
UNRENEWED = _counter("certificate_renewal_failures", "Attempts at a new certificate that failed.", "unrenewed")
EXPIRY = _gauge(
    "certificate_expiry_timestamp_seconds", "When the certificate ends, in Unix seconds.", "certified, renewed"
)
NOTICE = _gauge("notice_sequence", "The newest notice of the authority that the node keeps to.", "noticed")
REVOKED = _gauge("revoked_peers", "Peers whose identities the authority has revoked, by that notice.", "noticed")
UNBELIEVED = _counter("unbelieved_notices", "Notices that were not the authority's.", "unbelieved")
SERVING = _gauge("serving", "1 for the part that the node serves.", "serving", "part")
SESSIONS = _gauge("sessions", "Sessions that clients have open.", "load")
QUEUE = _gauge("queue_depth", "Tasks of clients that are under way or wait.", "load")
ANSWERS = _counter("answers", "Tasks of clients that ended.", "load", "outcome")
PROOFS = _counter("proofs", "Answers that were proved.", "load")
SIMULATED = _gauge("simulated", "1 for what is simulated: a lie that a node was told to tell.", "misbehaves", "what")

INFO = Metric(
    "decentral_info", Kind.GAUGE, "1, with what the cluster runs.", ("recipe", "hash", "does", "world"), "the directory"
)
REPUTATION = _gauge(
    "reputation", "Probability of a good answer, as this machine's client judges the node.", "the client's ledger"
)

METRICS = (
    INFO,
    ROUNDS,
    ROUND,
    PHASE,
    PHASE_SECONDS,
    BYTES,
    SAMPLES,
    TRAINING_LOSS,
    LOSS,
    ACCURACY,
    REFUSALS,
    REJECTIONS,
    TURNED_AWAY,
    MISSING,
    LOST,
    RETURNED,
    CUT_OFF,
    CRASHES,
    REJOINS,
    JOINED,
    LEFT,
    FAILURES,
    RENEWALS,
    UNRENEWED,
    EXPIRY,
    NOTICE,
    REVOKED,
    UNBELIEVED,
    SERVING,
    SESSIONS,
    QUEUE,
    ANSWERS,
    PROOFS,
    REPUTATION,
    SIMULATED,
)
"""Everything that is told, in the order in which it is shown."""

ENDS = {**{event: phase for phase, event in PHASES.items()}, "abandoned": "train"}
"""Events with `seconds`, and the phase that they end."""
COUNTED = {
    "lost": LOST,
    "returned": RETURNED,
    "cut_off": CUT_OFF,
    "failed": FAILURES,
    "renewed": RENEWALS,
    "unrenewed": UNRENEWED,
    "unbelieved": UNBELIEVED,
}
"""Events of a node's own journal that are counted, each as one."""
CHANGES = {"crashed": CRASHES, "rejoined": REJOINS, "joined": JOINED, "left": LEFT}
"""Events of the launcher about `other`."""

Labels = tuple[str, ...]
"""Values, in the order of the metric's labels."""


@dataclass(slots=True)
class Histogram:
    """Observations by bucket, the last of which has no bound, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """`le` and how many are at most that, to `+Inf`."""
        found, seen = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            seen += count
            found.append((bound, seen))
        return found


class Metrics:
    """The fold: `take` every event, in the order of each journal; `values` and `histograms` are what came of it."""

    def __init__(self, name: Callable[[int], str] = peer_name, epoch: Callable[[], float] = lambda: 0.0) -> None:
        """`name` of the node with an index; `epoch`: the Unix time at which the events' `t` was zero."""
        self._name, self._epoch = name, epoch
        self._values: dict[Metric, dict[Labels, float]] = {metric: {} for metric in METRICS}
        self._histograms: dict[Labels, Histogram] = defaultdict(Histogram)
        self._standings = Standings(0)
        self._phases: dict[str, str] = {}
        self._reasons: dict[str, set[str]] = defaultdict(set)
        self._loads: dict[str, tuple[_Load, _Load]] = {}
        """By node: what was counted before its last start, and since."""

    def values(self, metric: Metric) -> Mapping[Labels, float]:
        """Of a counter or a gauge, by its labels."""
        return self._values[metric]

    @property
    def histograms(self) -> Mapping[Labels, Histogram]:
        """Of `PHASE_SECONDS`, by node and phase."""
        return self._histograms

    def describe(self, recipe: str, digest: str, does: str, world: str) -> None:
        """What the cluster runs: see `INFO`."""
        self._values[INFO] = {(recipe, digest, does, world): 1}

    def judge(self, reputations: Mapping[str, float]) -> None:
        """What a client thinks of the nodes, by their names."""
        self._values[REPUTATION] = {(node,): score for node, score in reputations.items()}

    def take_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """One event; of those that tell nothing there is nothing to count."""
        self._standings.take(event)
        what, index = event["event"], event["peer"]
        if index is None:
            if (metric := CHANGES.get(what)) is not None:
                node = self._name(event["other"])
                self._add(metric, 1, node)
                self._stand(event["other"], node)
            return
        node = self._name(index)
        self._stand(index, node)
        if (metric := COUNTED.get(what)) is not None:
            self._add(metric, 1, node)
        if (phase := ENDS.get(what)) is not None:
            self._histograms[node, phase].observe(event["seconds"])
        self._take_own(what, event, node)

    def _take_own(self, what: str, event: Event, node: str) -> None:
        match what:
            case "round":
                self._add(ROUNDS, 1, node)
                self._raise(ROUND, event["round"], node)
                self._sent(event["bytes"], node)
            case "started":
                self._raise(ROUND, event["round"], node)
            case "finished":
                self._sent(event["bytes"], node)
            case "trained":
                self._add(SAMPLES, event["samples"], node)
                self._set(TRAINING_LOSS, event["loss"], node)
            case "evaluated":
                self._set(ACCURACY, event["accuracy"], node)
                self._set(LOSS, event["loss"], node)
            case "exchanged":
                self._add(MISSING, len(event["missing"]), node)
            case "refused":
                self._add(REFUSALS, 1, node, _label(event["reason"].lower()))
            case "rejected":
                self._add(REJECTIONS, 1, node, self._reason(node, _label(event["reason"])))
            case _:
                self._take_of_server(what, event, node)

    def _take_of_server(self, what: str, event: Event, node: str) -> None:
        match what:
            case "certified":  # the first that a process says
                self._restarted(node)
                self._expires(event, node)
            case "renewed":
                self._expires(event, node)
            case "noticed":
                self._set(NOTICE, event["sequence"], node)
                self._set(REVOKED, len(event["revoked"]), node)
            case "serving":
                self._set(SERVING, 1, node, _label(event["part"]))
            case "load":
                self._load(node, _Load.of(event))
            case "misbehaves":
                self._set(SIMULATED, 1, node, _label(event["behaviour"]))

    # ---- how values change -------------------------------------------------------------------------------------------

    def _set(self, metric: Metric, value: float | None, *labels: str) -> None:
        """None: there is no such value any more."""
        if value is None:
            self._values[metric].pop(labels, None)
        else:
            self._values[metric][labels] = value

    def _add(self, metric: Metric, value: float, *labels: str) -> None:
        self._values[metric][labels] = self._values[metric].get(labels, 0) + value

    def _raise(self, metric: Metric, value: float, *labels: str) -> None:
        self._values[metric][labels] = max(self._values[metric].get(labels, 0), value)

    def _stand(self, index: int, node: str) -> None:
        """The phase that a node is in becomes 1, the one that it was in 0."""
        now, before = self._standings.peers[index].phase, self._phases.get(node)
        if now != before:
            if before is not None:
                self._set(PHASE, 0, node, before)
            self._set(PHASE, 1, node, now)
            self._phases[node] = now

    def _expires(self, event: Event, node: str) -> None:
        self._set(EXPIRY, self._epoch() + event["t"] + event["left"], node)

    def _sent(self, counts: Mapping[str, int], node: str) -> None:
        """Counts are cumulative, across restarts too: the last one holds, as in the summary."""
        for kind in KINDS:
            self._values[BYTES][node, kind, "sent"] = int(counts[kind])

    def _reason(self, node: str, reason: str) -> str:
        known = self._reasons[node]
        if len(known) < MOST_REASONS:
            known.add(reason)
        return reason if reason in known else OTHER

    def _restarted(self, node: str) -> None:
        if node in self._loads:
            before, since = self._loads[node]
            self._loads[node] = before.plus(since), _Load()
            self._show(node, _Load())

    def _load(self, node: str, now: _Load) -> None:
        self._loads[node] = self._loads.get(node, (_Load(), _Load()))[0], now
        self._show(node, now)

    def _show(self, node: str, now: _Load) -> None:
        total = self._loads[node][0].plus(now)
        self._set(SESSIONS, now.sessions, node)
        self._set(QUEUE, now.waiting, node)
        self._set(PROOFS, total.proofs, node)
        for outcome, count in total.answers.items():
            self._set(ANSWERS, count, node, outcome)
        for reason, count in total.refused.items():
            self._set(TURNED_AWAY, count, node, reason)


@dataclass(frozen=True, slots=True)
class _Load:
    """What a node has counted since it was started."""

    sessions: int = 0
    waiting: int = 0
    proofs: int = 0
    answers: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> _Load:
        answers = {outcome: event[outcome] for outcome in OUTCOMES}
        refused = {_label(str(reason).lower()): count for reason, count in event["refused"].items()}
        return cls(event["sessions"], event["waiting"], event["proofs"], answers, refused)

    def plus(self, later: _Load) -> _Load:
        """The counts of both; what stands now is the later one's."""
        return _Load(
            later.sessions,
            later.waiting,
            self.proofs + later.proofs,
            _sum(self.answers, later.answers),
            _sum(self.refused, later.refused),
        )


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *(key for key in other if key not in one))}


def _label(text: str) -> str:
    """Of a value that somebody else may have chosen."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:MOST_LETTERS]


def table() -> Iterator[tuple[str, str, str, str]]:
    """Name, kind, labels and meaning of every metric, as docs/observability.md has them."""
    for metric in METRICS:
        yield metric.name, metric.kind.value, ", ".join(metric.labels), metric.about
