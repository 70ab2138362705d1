"""A run's curves as TensorBoard reads them: a folder for each node and one for the mean of the honest, a step a round.

They are written as events come, in TensorBoard's own format by its own package; no torch, no thread and no open file is
needed for it, however many nodes there are.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from decentral.errors import UserError
from decentral.run.course import Point
from decentral.run.directory import peer_name
from decentral.run.journal import Event
from decentral.run.summary import KINDS, PHASES

MEAN = "mean"
"""The folder of what is of all nodes."""
GATHERED = 32
"""Steps of a node that wait at most; they are written when its round is over."""
VERSION = "brain.Event:2"
"""What a file of this format begins with."""
ENDED = {event: phase for phase, event in PHASES.items()}

Scalar = tuple[str, float]


def scalars_of(event: Event) -> Iterator[Scalar]:
    """What an event adds to its node's curves, by name; nothing that is no finite number."""
    what = event["event"]
    found: list[tuple[str, float | None]] = []
    if what == "trained":
        found += [("loss/training", event["loss"])]
    elif what == "evaluated":
        found += [("accuracy", event["accuracy"]), ("loss/test", event["loss"])]
    elif what == "round":
        found += [(f"bytes/{kind}", event["bytes"][kind]) for kind in KINDS]
    if what in ENDED:
        found.append((f"seconds/{ENDED[what]}", event["seconds"]))
    for name, value in found:
        if value is not None and math.isfinite(value):
            yield name, float(value)


class Scalars:
    """An observer of a run's events that writes them below a folder."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        """`now`: Unix seconds. Raises UserError naming the extra that is not installed, or a folder that is none."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer import record_writer
        except ImportError as error:
            raise UserError(f"--tensorboard needs {error.name}: pip install 'decentral[tensorboard]'") from error
        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        self._record: Any = record_writer.RecordWriter
        self._folder, self._now = folder, now
        self._began = now()
        self._file = f"events.out.tfevents.{int(self._began)}.{socket.gethostname()}.{os.getpid()}"
        self._waiting: dict[str, list[bytes]] = defaultdict(list)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--tensorboard {folder}: cannot be written ({error.strerror})") from error

    def __call__(self, event: Event) -> None:
        if event["peer"] is None:
            return
        node, scalars = peer_name(event["peer"]), list(scalars_of(event))
        if scalars:
            self._add(node, event["round"], self._began + event["t"], scalars)
        if event["event"] in ("round", "finished") or len(self._waiting[node]) >= GATHERED:
            self._write(node)

    def mean(self, points: Iterable[Point]) -> None:
        """Of all honest nodes, by round: accuracy, and what it had cost by then."""
        for point in points:
            costs = [("bytes/total", float(point.total)), ("images", float(point.images))]
            self._add(MEAN, point.round, self._began + point.seconds, [("accuracy", point.accuracy), *costs])
        self.close()

    def close(self) -> None:
        """Writes what waits."""
        for node in [*self._waiting]:
            self._write(node)

    def _add(self, node: str, step: int, wall: float, scalars: Sequence[Scalar]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars]
        told = self._event(wall_time=wall, step=step, summary=self._summary(value=values))
        self._waiting[node].append(told.SerializeToString())

    def _write(self, node: str) -> None:
        waiting, self._waiting[node] = self._waiting[node], []
        if not waiting:
            return
        path = self._folder / node / self._file
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            waiting.insert(0, self._event(wall_time=self._began, file_version=VERSION).SerializeToString())
        with path.open("ab") as file:
            writer = self._record(file)
            for record in waiting:
                writer.write(record)
            writer.flush()
