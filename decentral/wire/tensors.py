"""Models as frames and back: a header, the elements of all tensors in chunks of 1 MiB, one digest.

Frames are `ModelChunk`s of `exchange.proto`, but their fields are framed by hand: the protobuf runtime would copy the
data twice more. The digest is BLAKE3 over the header as it was sent and the BLAKE3 digest of the data, each with a
context of its own. It is computed along the way, once per message, and never once per receiver.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator

from blake3 import blake3
from google.protobuf.message import DecodeError

from decentral.errors import Malformed, Refusal
from decentral.wire.elements import Arrival, Elements
from decentral.wire.limits import CHUNK_BYTES, MAX_HEADER, MAX_NUMBER, MAX_TAG, Limits
from decentral.wire.messages import Model
from decentral.wire.records import news_in, news_out
from decentral.wire.v1 import messages_pb2 as pb

DIGEST_BYTES = 32
MAX_VARINT = 5
DIGEST_CONTEXT = "decentral 2026 model message v1"
DATA_CONTEXT = "decentral 2026 model data v1"
HEADER, DATA, DIGEST = 1, 2, 3  # ModelChunk's field numbers


def framed(field: int, size: int) -> bytes:
    """What protobuf puts before `size` bytes of a field: its tag and the length (base-128 varint)."""
    return bytes((field << 3 | 2,)) + varint(size)


def varint(value: int) -> bytes:
    """A number as protobuf writes it, seven bits a byte."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


class EncodedModel:
    """A model's frames, made on demand from the tensors' own memory, for any number of receivers.

    The tensors must not change while it is being sent. `size` is the number of bytes of all frames.
    """

    def __init__(self, model: Model) -> None:
        self._elements = elements = Elements(model.tensors)
        header = pb.ModelHeader(
            round=model.round,
            tag=model.tag,
            samples=model.samples,
            total_bytes=elements.total,
            tensors=elements.headers,
            weight=None if model.weight == 1.0 else model.weight,
            news=None if model.news is None else news_out(model.news, model.round),
        ).SerializeToString()
        if len(header) > MAX_HEADER:
            many = len(elements.headers)
            raise ValueError(f"{many} tensors need a header of {len(header)} bytes; the limit is {MAX_HEADER}")
        self._head = framed(HEADER, len(header)) + header
        self._digest = _Digest(header)
        self._hashed = 0
        full, rest = divmod(elements.total, CHUNK_BYTES)
        framing = full * len(framed(DATA, CHUNK_BYTES)) + (len(framed(DATA, rest)) if rest else 0)
        self.size = len(self._head) + framing + elements.total + len(framed(DIGEST, DIGEST_BYTES)) + DIGEST_BYTES

    @property
    def whole(self) -> bool:
        """Whether the model is a single frame."""
        return self._elements.total <= CHUNK_BYTES

    def frames(self) -> Iterator[bytes]:
        """One frame with everything, or the header alone, then the data, with the digest at its end."""
        head = self._head
        if not self.whole:
            yield head
            head = b""
        chunks = self._elements.chunks
        for index in range(chunks - 1):
            yield self._chunk(index)
        last = self._chunk(chunks - 1) if chunks else b""
        yield b"".join((head, last, framed(DIGEST, DIGEST_BYTES), self._digest.value()))

    def _chunk(self, index: int) -> bytes:
        """A chunk in its framing. Whoever is first to reach it also hashes it; the other receivers find that done."""
        pieces = self._elements.chunk(index)
        size = sum(map(len, pieces))
        frame = b"".join((framed(DATA, size), *pieces))
        if index == self._hashed:
            self._digest.update(memoryview(frame)[-size:])  # the copy is what the processor's caches hold now
            self._hashed += 1
        return frame


def encoded(model: Model) -> EncodedModel:
    """The encoding of a model, made once per message."""
    found = model._encoded.setdefault("frames", None) or EncodedModel(model)
    model._encoded["frames"] = found
    assert isinstance(found, EncodedModel)
    return found


class _Digest:
    """A model message's digest, while its data comes by.

    Data and header are hashed apart: BLAKE3 is a tree over 1 KiB leaves, and chunks that start at a leaf are hashed a
    fifth faster than those that a header has shifted.
    """

    def __init__(self, header: bytes) -> None:
        self._header = header
        self._data = blake3(derive_key_context=DATA_CONTEXT)

    def update(self, data: memoryview) -> None:
        self._data.update(data)

    def value(self) -> bytes:
        return blake3(self._data.digest() + self._header, derive_key_context=DIGEST_CONTEXT).digest()


class ModelDecoder:
    """Takes a model's frames one by one; raises Malformed at the first that breaks a rule."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._header: pb.ModelHeader | None = None
        self._claimed: bytes | None = None

    def feed(self, frame: bytes) -> None:
        """Takes the next frame."""
        parts = _parse_frame(frame)
        if self._header is None:
            if HEADER not in parts:
                raise Malformed(Refusal.MALFORMED, "a model message that does not start with its header")
            header = self._header = self._take_header(parts.pop(HEADER))
            whole = header.total_bytes <= CHUNK_BYTES
            expected = ({DATA, DIGEST} if header.total_bytes else {DIGEST}) if whole else set()
        else:
            left = self._arrival.left
            expected = ({DATA, DIGEST} if left <= CHUNK_BYTES else {DATA}) if left else set()
            if self._claimed is not None:
                raise Malformed(Refusal.MALFORMED, "a frame after the digest")
        if parts.keys() != expected:
            raise Malformed(Refusal.MALFORMED, "a frame with other fields than are due")
        if DATA in parts:
            self._arrival.take(parts[DATA])
            self._digest.update(parts[DATA])
        if DIGEST in parts:
            self._claimed = bytes(parts[DIGEST])

    @property
    def complete(self) -> bool:
        """Whether all frames have come."""
        return self._claimed is not None

    def finish(self) -> Model:
        """The model, once all frames were fed."""
        if self._header is None or self._claimed is None:
            raise Malformed(Refusal.MALFORMED, "a model message that ends too early")
        if not hmac.compare_digest(self._claimed, self._digest.value()):
            raise Malformed(Refusal.DIGEST, "the content does not have the digest that was sent with it")
        weight = self._header.weight if self._header.HasField("weight") else 1.0
        tensors = self._arrival.tensors()
        return Model(self._header.round, tensors, self._header.samples, self._header.tag, weight, self._news)

    def _take_header(self, part: memoryview) -> pb.ModelHeader:
        if len(part) > MAX_HEADER:
            raise Malformed(Refusal.TOO_LARGE, f"a header of {len(part)} bytes; the limit is {MAX_HEADER}")
        raw = bytes(part)
        try:
            header = pb.ModelHeader.FromString(raw)
        except DecodeError as error:
            raise Malformed(Refusal.MALFORMED, "not a ModelHeader") from error
        _check_header(header)
        self._news = news_in(header.news, header.round, self._limits) if header.HasField("news") else None
        self._arrival = Arrival(header.tensors, header.total_bytes, self._limits)
        self._digest = _Digest(raw)
        return header


def _parse_frame(frame: bytes) -> dict[int, memoryview]:
    """The fields of a frame by their numbers; they are in ascending order, each at most once, and fill the frame."""
    memory = memoryview(frame)
    parts: dict[int, memoryview] = {}
    position, last = 0, 0
    while position < len(frame):
        field, wire_type = divmod(frame[position], 8)
        position += 1
        size = shift = 0
        for byte in memory[position : position + MAX_VARINT]:
            size |= (byte & 0x7F) << shift
            shift += 7
            position += 1
            if byte < 0x80:
                break
        else:
            raise Malformed(Refusal.MALFORMED, "a field without a length")
        if wire_type != 2 or not last < field <= DIGEST or position + size > len(frame):
            raise Malformed(Refusal.MALFORMED, "a frame that is not a ModelChunk")
        parts[field] = memory[position : position + size]
        position, last = position + size, field
    return parts


def _check_header(header: pb.ModelHeader) -> None:
    """Raises Malformed."""
    if header.round >= MAX_NUMBER or header.samples >= MAX_NUMBER or len(header.tag.encode()) > MAX_TAG:
        raise Malformed(Refusal.MALFORMED, "a round, a number of samples or a tag that is out of range")
    if header.HasField("weight") and not 0 < header.weight < math.inf:  # NaN is neither
        raise Malformed(Refusal.MALFORMED, "a push-sum weight that is not a finite number above zero")
