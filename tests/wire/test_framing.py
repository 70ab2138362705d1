"""What is said when models are used: frames carry it whole, and nothing malformed gets past the first frame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal, Refused
from decentral.wire import framing
from decentral.wire.conversation import (
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
from decentral.wire.framing import MOST_FRAMES, Hearing, announced_bytes, frames, parse
from decentral.wire.limits import CHUNK_BYTES, MAX_SHOWN, Limits
from decentral.wire.v1 import serving_pb2

DIGEST = bytes(range(32))
TERMS = Terms(b"t" * 16, b"n" * 32, 3)


def parsed(message: bytes) -> serving_pb2.SessionFrame:
    (frame,) = parse(message)
    return frame


def heard(said: Said, limits: Limits | None = None) -> Said:
    first, *rest = (parsed(frame) for frame in frames(7, said))
    assert {first.conversation, *(frame.conversation for frame in rest)} == {7}
    hearing = Hearing(first, limits or Limits())
    for frame in rest:
        assert not hearing.complete
        hearing.feed(frame)
    assert hearing.complete
    return hearing.message()


@given(st.text(max_size=16), st.integers(0, 3))
def test_a_task_arrives_as_it_was_given(part: str, size: int) -> None:
    for terms in (None, TERMS):
        given_task = Task(part, DIGEST, {"x": torch.randn(size, 3), "t": torch.tensor(0.5)}, terms)
        back = heard(given_task)
        assert isinstance(back, Task)
        assert (back.part, back.digest, back.terms) == (part, DIGEST, terms)
        assert all(torch.equal(back.tensors[name], tensor) for name, tensor in given_task.tensors.items())


@pytest.mark.parametrize("prove", [None, Prove(), Prove(srs=True)])
def test_a_task_says_whether_its_answer_is_to_be_proved(prove: Prove | None) -> None:
    back = heard(Task("p", DIGEST, {"x": torch.ones(2)}, TERMS, prove))
    assert isinstance(back, Task)
    assert back.prove == prove


@given(st.binary(min_size=1, max_size=200), st.sampled_from([1, 2 * CHUNK_BYTES // 100]))
def test_a_proof_arrives_byte_by_byte(some: bytes, times: int) -> None:
    proof = Proof(some * times)
    sizes = [len(parsed(frame).data) for frame in frames(1, proof)]
    assert sum(sizes) == len(proof.evidence)
    assert all(size == CHUNK_BYTES for size in sizes[:-1])
    assert announced_bytes(parsed(next(frames(1, proof)))) == len(proof.evidence)
    assert heard(proof) == proof


def test_large_outputs_travel_in_chunks_of_a_mebibyte() -> None:
    output = Output({"y": torch.randn(CHUNK_BYTES // 4 * 2 + 5)})
    sizes = [len(parsed(frame).data) for frame in frames(1, output)]
    assert sizes == [CHUNK_BYTES, CHUNK_BYTES, 20]
    back = heard(output)
    assert isinstance(back, Output)
    assert torch.equal(back.tensors["y"], output.tensors["y"])


@pytest.mark.parametrize(
    "said",
    [
        Commitment(DIGEST),
        Open((bytes(32), DIGEST)),
        Reveal(DIGEST, bytes(32), b"s" * 32, b"s" * 64),
        Reveal(DIGEST, bytes(32), b"s" * 32, b"s" * 64, b"v" * 64),
        Fetch(),
        Over(),
        Output({}),
        Proof(b"some bytes"),
        Shown(b"a quote"),
        Challenge(DIGEST),
        Keys(b"k" * 80),
    ],
    ids=lambda said: type(said).__name__,
)
def test_what_has_no_tensors_is_one_frame_and_arrives_as_it_was_said(said: Said) -> None:
    assert len(list(frames(1, said))) == 1
    assert heard(said) == said


def test_a_refusal_arrives_with_its_reason() -> None:
    back = heard(Refused(Refusal.BUSY, "later"))
    assert isinstance(back, Refused)
    assert (back.reason, back.detail) == (Refusal.BUSY, "later")


def test_a_message_says_at_its_beginning_how_much_will_come() -> None:
    task = Task("p", DIGEST, {"x": torch.zeros(1000)})
    assert announced_bytes(parsed(next(frames(1, task)))) == 4000
    assert announced_bytes(parsed(next(frames(1, Over())))) == 0


def test_a_reason_of_a_later_version_is_read_as_unspecified() -> None:
    frame = serving_pb2.SessionFrame(conversation=1)
    frame.refused.reason = 99  # type: ignore[assignment]
    back = Hearing(frame, Limits()).message()
    assert isinstance(back, Refused)
    assert back.reason is Refusal.UNSPECIFIED


@pytest.mark.parametrize(
    "broken",
    [
        serving_pb2.SessionFrame(conversation=1),
        serving_pb2.SessionFrame(conversation=1, task=serving_pb2.Task(part="p", digest=b"short")),
        serving_pb2.SessionFrame(conversation=1, task=serving_pb2.Task(part="p" * 65, digest=DIGEST)),
        serving_pb2.SessionFrame(conversation=1, task=serving_pb2.Task(part="p", digest=DIGEST), data=b"more"),
        serving_pb2.SessionFrame(conversation=1, over=serving_pb2.Over(), data=b"more"),
        serving_pb2.SessionFrame(conversation=1, fetch=serving_pb2.Fetch(), data=b"more"),
        serving_pb2.SessionFrame(
            conversation=1,
            task=serving_pb2.Task(part="p", digest=DIGEST, question=serving_pb2.Question(task=b"short", nonce=DIGEST)),
        ),
        serving_pb2.SessionFrame(conversation=1, task=serving_pb2.Task(digest=DIGEST, question=serving_pb2.Question())),
        serving_pb2.SessionFrame(conversation=1, commitment=serving_pb2.Commitment(digest=b"short")),
        serving_pb2.SessionFrame(conversation=1, open=serving_pb2.Open(commitments=[DIGEST, DIGEST])),
        serving_pb2.SessionFrame(conversation=1, open=serving_pb2.Open()),
        serving_pb2.SessionFrame(conversation=1, proof=serving_pb2.Proof(total_bytes=5), data=b"six..."),
        serving_pb2.SessionFrame(conversation=0, shown=serving_pb2.Shown(total_bytes=MAX_SHOWN + 1), data=b"..."),
        serving_pb2.SessionFrame(conversation=1, reveal=serving_pb2.Reveal(public_key=DIGEST)),
        serving_pb2.SessionFrame(
            conversation=1,
            reveal=serving_pb2.Reveal(
                public_key=DIGEST, output=DIGEST, salt=DIGEST, signature=bytes(64), vouched=b"short"
            ),
        ),
    ],
)
def test_a_frame_that_breaks_a_rule_is_refused(broken: serving_pb2.SessionFrame) -> None:
    with pytest.raises(Malformed):
        Hearing(broken, Limits())


@pytest.mark.parametrize("said", [Fetch(), Commitment(DIGEST)], ids=lambda said: type(said).__name__)
def test_what_is_whole_does_not_go_on(said: Said) -> None:
    hearing = Hearing(parsed(next(frames(1, said))), Limits())
    with pytest.raises(Malformed):
        hearing.feed(serving_pb2.SessionFrame(conversation=1, data=b"more"))


def test_more_than_the_limit_is_refused_at_the_first_frame() -> None:
    first = parsed(next(frames(1, Task("p", DIGEST, {"x": torch.zeros(1000)}))))
    with pytest.raises(Malformed) as refused:
        Hearing(first, Limits(model_bytes=3999))
    assert refused.value.reason is Refusal.TOO_LARGE
    with pytest.raises(Malformed) as refused:
        Hearing(serving_pb2.SessionFrame(proof=serving_pb2.Proof(total_bytes=1 << 62)), Limits())
    assert refused.value.reason is Refusal.TOO_LARGE


@given(st.lists(st.integers(1, 1 << 40), max_size=8))
def test_messages_in_a_row_are_a_message(numbers: list[int]) -> None:
    said = [Fetch(), Output({"y": torch.ones(3)}), Commitment(DIGEST)]
    together = b"".join(frame for number in numbers for each in said for frame in frames(number, each))
    back = [(frame.conversation, Hearing(frame, Limits()).message()) for frame in parse(together)]
    assert [number for number, _ in back] == [number for number in numbers for _ in said]
    assert [type(each) for _, each in back] == [type(each) for each in said] * len(numbers)


def test_a_frame_is_what_protobuf_would_write() -> None:
    output = Output({"y": torch.arange(3)})
    (message,) = frames(300, output)
    (frame,) = parse(message)
    assert serving_pb2.SessionFrames(frames=[frame]).SerializeToString() == message


def test_no_more_frames_than_the_limit_come_in_one_message() -> None:
    (fetch,) = frames(1, Fetch())
    assert len(parse(fetch * MOST_FRAMES)) == MOST_FRAMES
    with pytest.raises(Malformed) as refused:
        parse(fetch * (MOST_FRAMES + 1))
    assert refused.value.reason is Refusal.TOO_LARGE


def test_a_task_is_encoded_once_for_all_who_are_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("p", DIGEST, {"x": torch.ones(4)}, TERMS)
    first = list(frames(1, task))
    monkeypatch.setattr(framing, "Elements", None)
    again = list(frames(2, task))
    assert first != again
    assert parsed(again[0]).conversation == 2
    assert parsed(again[0]).data == parsed(first[0]).data


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    try:
        for frame in parse(data):
            Hearing(frame, Limits(model_bytes=1 << 16))
    except Malformed:
        return
