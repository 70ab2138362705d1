"""What is said when models are used, as values, and as the frames of a session.

A client gives a replica a task and hears what came of it. Tensors travel beside their headers in chunks of 1 MiB, so
that a large answer in one conversation does not keep the others of the session waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from decentral.errors import Malformed, Refusal, Refused
from decentral.wire.elements import Arrival, Elements
from decentral.wire.limits import MAX_FRAME, MAX_HEADER, MAX_TAG, Limits
from decentral.wire.records import text
from decentral.wire.refusals import refused_in, refused_out
from decentral.wire.tensors import framed
from decentral.wire.v1 import serving_pb2

if TYPE_CHECKING:
    from torch import Tensor

DIGEST_BYTES = 32
DATA = 15  # SessionFrame's field number


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs by name, for the part of a model that is called `part` and has this digest of graph and parameters."""

    part: str
    digest: bytes
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Output:
    """What came of a task, by name."""

    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Over:
    """Nobody listens in this conversation any more."""


Said = Task | Output | Over | Refused


def frames(conversation: int, said: Said) -> Iterator[bytes]:
    """The frames of what one side says. Raises TypeError for tensors that have no encoding."""
    elements, frame = Elements({}), serving_pb2.SessionFrame(conversation=conversation)
    match said:
        case Task(part, digest, tensors):
            elements = Elements(tensors)
            frame.task.MergeFrom(serving_pb2.Task(part=part, digest=digest, tensors=_described(elements)))
        case Output(tensors):
            elements = Elements(tensors)
            frame.output.MergeFrom(serving_pb2.Output(tensors=_described(elements)))
        case Over():
            frame.over.SetInParent()
        case Refused():
            frame.refused.MergeFrom(refused_out(said))
    head = frame.SerializeToString()
    if len(head) > MAX_HEADER:
        raise ValueError(f"{len(elements.headers)} tensors need a header of {len(head)} bytes; at most {MAX_HEADER}")
    if not elements.chunks:
        yield head
    for index in range(elements.chunks):
        if index == 1:
            head = serving_pb2.SessionFrame(conversation=conversation).SerializeToString()
        pieces = elements.chunk(index)
        yield b"".join((head, framed(DATA, sum(map(len, pieces))), *pieces))


def _described(elements: Elements) -> serving_pb2.Tensors:
    return serving_pb2.Tensors(headers=elements.headers, total_bytes=elements.total)


def parse(frame: bytes) -> serving_pb2.SessionFrame:
    """Raises Malformed."""
    if len(frame) > MAX_FRAME:
        raise Malformed(Refusal.TOO_LARGE, f"a frame of {len(frame)} bytes; the limit is {MAX_FRAME}")
    try:
        return serving_pb2.SessionFrame.FromString(frame)
    except DecodeError as error:
        raise Malformed(Refusal.MALFORMED, "not a SessionFrame") from error


def announced_bytes(frame: serving_pb2.SessionFrame) -> int:
    """How many bytes of tensors the message has that begins with this frame."""
    match frame.WhichOneof("said"):
        case "task":
            return int(frame.task.tensors.total_bytes)
        case "output":
            return int(frame.output.tensors.total_bytes)
        case _:
            return 0


class Hearing:
    """One message on its way in: made from its first frame, fed the others. Raises Malformed."""

    def __init__(self, frame: serving_pb2.SessionFrame, limits: Limits) -> None:
        self._frame = frame
        match frame.WhichOneof("said"):
            case "task":
                tensors = frame.task.tensors
                text(frame.task.part, MAX_TAG)
                if len(frame.task.digest) != DIGEST_BYTES:
                    raise Malformed(Refusal.MALFORMED, f"a digest of {len(frame.task.digest)} bytes")
            case "output":
                tensors = frame.output.tensors
            case "over" | "refused":
                tensors = serving_pb2.Tensors()
            case _:
                raise Malformed(Refusal.MALFORMED, "a message that does not begin with its header")
        self._arrival = Arrival(tensors.headers, tensors.total_bytes, limits)
        self._take(frame.data)

    def feed(self, frame: serving_pb2.SessionFrame) -> None:
        if frame.WhichOneof("said") is not None or not self._arrival.left:
            raise Malformed(Refusal.MALFORMED, "a frame that does not go on with its message")
        self._take(frame.data)

    def _take(self, data: bytes) -> None:
        if data or self._arrival.left:
            self._arrival.take(memoryview(data))

    @property
    def complete(self) -> bool:
        return not self._arrival.left

    def message(self) -> Said:
        """Once it is complete."""
        match self._frame.WhichOneof("said"):
            case "task":
                task = self._frame.task
                return Task(task.part, task.digest, self._arrival.tensors())
            case "output":
                return Output(self._arrival.tensors())
            case "refused":
                return refused_in(self._frame.refused)
            case _:
                return Over()
