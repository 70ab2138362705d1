"""What is said when models are used (`conversation`), as the frames of a session and back.

Tensors travel beside their headers in chunks of 1 MiB, so that a large answer in one conversation does not keep the
others of the session waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from google.protobuf.message import DecodeError

from decentral.errors import Malformed, Refusal, Refused
from decentral.wire.conversation import (
    DIGEST_BYTES,
    Challenge,
    Commitment,
    Fetch,
    Keys,
    Open,
    Output,
    Over,
    Proof,
    Prove,
    Reveal,
    Said,
    Shown,
    Task,
    Terms,
)
from decentral.wire.elements import Arrival, Elements
from decentral.wire.limits import MAX_FRAME, MAX_HEADER, MAX_SHOWN, MAX_TAG, Limits
from decentral.wire.records import text
from decentral.wire.refusals import refused_in, refused_out
from decentral.wire.tensors import framed, varint
from decentral.wire.v1 import messages_pb2
from decentral.wire.v1 import serving_pb2 as pb

FRAMES, CONVERSATION, DATA = 1, 1, 15
"""Field numbers: of SessionFrames, and of SessionFrame twice."""
MOST_FRAMES = 64
"""In one message."""


class _Body:
    """All of a message but the number of its conversation."""

    def __init__(self, said: Said) -> None:
        self.elements: Elements | None = None
        match said:
            case Task(part, digest, tensors, terms, prove):
                self.elements = Elements(tensors)
                task = pb.Task(part=part, digest=digest, tensors=_described(self.elements))
                if terms is not None:
                    task.question.task, task.question.nonce, task.question.epoch = terms.task, terms.nonce, terms.epoch
                if prove is not None:
                    task.prove.srs = prove.srs
                    task.prove.SetInParent()
                frame = pb.SessionFrame(task=task)
            case Output(tensors):
                self.elements = Elements(tensors)
                frame = pb.SessionFrame(output=pb.Output(tensors=_described(self.elements)))
            case Proof(evidence):
                self.elements = _elements(evidence)
                frame = pb.SessionFrame(proof=pb.Proof(total_bytes=self.elements.total))
            case Shown(evidence):
                self.elements = _elements(evidence)
                frame = pb.SessionFrame(shown=pb.Shown(total_bytes=self.elements.total))
            case _:
                frame = _alone(said)
        self.head = frame.SerializeToString()
        if len(self.head) > MAX_HEADER and self.elements is not None:
            many = len(self.elements.headers)
            raise ValueError(f"{many} tensors need a header of {len(self.head)} bytes; at most {MAX_HEADER}")


def frames(conversation: int, said: Said) -> Iterator[bytes]:
    """What one side says, each frame as a message of its own; several in a row are a message too.

    Raises TypeError for tensors that have no encoding.
    """
    body = _body(said)
    number = bytes((CONVERSATION << 3,)) + varint(conversation)
    chunks = body.elements.chunks if body.elements is not None else 0
    if body.elements is None or not chunks:
        yield b"".join((framed(FRAMES, len(number) + len(body.head)), number, body.head))
        return
    for index in range(chunks):
        pieces = body.elements.chunk(index)
        size = sum(map(len, pieces))
        head = b"".join((number, body.head if not index else b"", framed(DATA, size)))
        yield b"".join((framed(FRAMES, len(head) + size), head, *pieces))


def _body(said: Said) -> _Body:
    """A task's is made once."""
    if not isinstance(said, Task):
        return _Body(said)
    found = said._encoded.get("body") or _Body(said)
    said._encoded["body"] = found
    assert isinstance(found, _Body)
    return found


def _elements(evidence: bytes) -> Elements:
    """Bytes as the one tensor that they travel as."""
    return Elements({"": torch.frombuffer(bytearray(evidence), dtype=torch.uint8)})


def _described(elements: Elements) -> pb.Tensors:
    return pb.Tensors(headers=elements.headers, total_bytes=elements.total)


def _alone(said: Commitment | Open | Reveal | Fetch | Challenge | Keys | Over | Refused) -> pb.SessionFrame:
    """What has no tensors."""
    frame = pb.SessionFrame()
    match said:
        case Commitment(digest):
            frame.commitment.digest = digest
        case Open(commitments):
            frame.open.commitments.extend(commitments)
        case Reveal(public_key, output, salt, signature, vouched):
            frame.reveal.public_key, frame.reveal.output = public_key, output
            frame.reveal.salt, frame.reveal.signature, frame.reveal.vouched = salt, signature, vouched
        case Fetch():
            frame.fetch.SetInParent()
        case Challenge(nonce):
            frame.challenge.nonce = nonce
        case Keys(sealed):
            frame.keys.sealed = sealed
        case Over():
            frame.over.SetInParent()
        case Refused():
            frame.refused.MergeFrom(refused_out(said))
    return frame


def parse(message: bytes) -> Sequence[pb.SessionFrame]:
    """Raises Malformed."""
    if len(message) > MAX_FRAME:
        raise Malformed(Refusal.TOO_LARGE, f"a message of {len(message)} bytes; the limit is {MAX_FRAME}")
    try:
        parsed = pb.SessionFrames.FromString(message).frames
    except DecodeError as error:
        raise Malformed(Refusal.MALFORMED, "not SessionFrames") from error
    if len(parsed) > MOST_FRAMES:
        raise Malformed(Refusal.TOO_LARGE, f"{len(parsed)} frames in a message; the limit is {MOST_FRAMES}")
    return parsed


def announced_bytes(frame: pb.SessionFrame) -> int:
    """How many bytes of tensors the message has that begins with this frame."""
    match frame.WhichOneof("said"):
        case "task":
            return int(frame.task.tensors.total_bytes)
        case "output":
            return int(frame.output.tensors.total_bytes)
        case "proof":
            return int(frame.proof.total_bytes)
        case "shown":
            return int(frame.shown.total_bytes)
        case _:
            return 0


class Hearing:
    """One message on its way in: made from its first frame, fed the others. Raises Malformed."""

    def __init__(self, frame: pb.SessionFrame, limits: Limits) -> None:
        self._frame = frame
        self._terms: Terms | None = None
        self._prove: Prove | None = None
        self._arrival: Arrival | None = None  # none: all has come
        self._alone: Said | None = None
        match frame.WhichOneof("said"):
            case "task":
                text(frame.task.part, MAX_TAG)
                if len(frame.task.digest) != DIGEST_BYTES:
                    raise Malformed(Refusal.MALFORMED, f"a digest of {len(frame.task.digest)} bytes")
                if frame.task.HasField("question"):
                    question = frame.task.question
                    self._terms = Terms(question.task, question.nonce, question.epoch)
                if frame.task.HasField("prove"):
                    self._prove = Prove(frame.task.prove.srs)
                self._arrival = Arrival(frame.task.tensors.headers, frame.task.tensors.total_bytes, limits)
                self._take(self._arrival, frame.data)
            case "output":
                self._arrival = Arrival(frame.output.tensors.headers, frame.output.tensors.total_bytes, limits)
                self._take(self._arrival, frame.data)
            case "proof" | "shown":
                total = announced_bytes(frame)
                if frame.HasField("shown") and total > MAX_SHOWN:
                    raise Malformed(Refusal.TOO_LARGE, f"evidence of {total} bytes; the limit is {MAX_SHOWN}")
                header = messages_pb2.TensorHeader(dtype=messages_pb2.DATA_TYPE_UINT8, shape=[total])
                self._arrival = Arrival([header], total, limits)
                self._take(self._arrival, frame.data)
            case kind:
                if frame.data:
                    raise Malformed(Refusal.MALFORMED, "tensors of a message that has none")
                self._alone = _heard_alone(frame, kind)

    def feed(self, frame: pb.SessionFrame) -> None:
        if frame.WhichOneof("said") is not None or self._arrival is None or not self._arrival.left:
            raise Malformed(Refusal.MALFORMED, "a frame that does not go on with its message")
        self._take(self._arrival, frame.data)

    def _take(self, arrival: Arrival, data: bytes) -> None:
        if data or arrival.left:
            arrival.take(memoryview(data))

    @property
    def complete(self) -> bool:
        return self._arrival is None or not self._arrival.left

    def message(self) -> Said:
        """Once it is complete."""
        if self._alone is not None:
            return self._alone
        assert self._arrival is not None
        match self._frame.WhichOneof("said"):
            case "output":
                return Output(self._arrival.tensors())
            case "proof":
                return Proof(self._arrival.tensors()[""].numpy().tobytes())
            case "shown":
                return Shown(self._arrival.tensors()[""].numpy().tobytes())
        task = self._frame.task
        return Task(task.part, task.digest, self._arrival.tensors(), self._terms, self._prove)


def _heard_alone(frame: pb.SessionFrame, kind: str | None) -> Said:
    """A message without tensors. Raises Malformed."""
    said: Said
    match kind:
        case "commitment":
            said = Commitment(frame.commitment.digest)
        case "open":
            said = Open(tuple(frame.open.commitments))
        case "reveal":
            reveal = frame.reveal
            said = Reveal(reveal.public_key, reveal.output, reveal.salt, reveal.signature, reveal.vouched)
        case "fetch":
            said = Fetch()
        case "challenge":
            said = Challenge(frame.challenge.nonce)
        case "keys":
            said = Keys(frame.keys.sealed)
        case "over":
            said = Over()
        case "refused":
            said = refused_in(frame.refused)
        case _:
            raise Malformed(Refusal.MALFORMED, "a message that does not begin with its header")
    return said
