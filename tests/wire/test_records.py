"""What peers say of peers comes back whole, in few bytes; what no plan can hold is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed
from decentral.wire.identity import Identity
from decentral.wire.limits import MAX_AGE, Limits
from decentral.wire.messages import MembershipRecord, MembershipStatus, Model, News
from decentral.wire.records import news_in, news_out, record_in, record_out
from decentral.wire.tensors import ModelDecoder, encoded
from decentral.wire.v1 import messages_pb2 as pb

RECORD = Identity.from_seed(b"alice").record(MembershipStatus.LEAVE, 3, "127.0.0.1:7000", 2)
SEEN = st.dictionaries(st.integers(0, 4095), st.integers(0, 50), max_size=40)


def told(seen: dict[int, int]) -> News:
    return News((RECORD,), np.array(sorted(seen), np.int64), np.array([seen[peer] for peer in sorted(seen)], np.int64))


@given(SEEN, st.integers(50, 1 << 20))
def test_news_comes_back_without_what_is_ages_old(seen: dict[int, int], round: int) -> None:
    young = {peer: at for peer, at in seen.items() if round - at <= MAX_AGE}
    assert news_in(news_out(told(seen), round), round, Limits()) == told(young)


def test_news_differs_by_whatever_it_says() -> None:
    news = told({3: 4, 7: 5})
    assert news == told({7: 5, 3: 4})
    assert all(news != other for other in (told({3: 4}), told({3: 4, 7: 6}), told({3: 4, 8: 5}), News(), "news"))


def test_a_model_carries_news() -> None:
    news = told({0: 4, 3: 5, 900: 0})
    decoder = ModelDecoder(Limits())
    for frame in encoded(Model(5, {"a": torch.ones(2)}, news=news)).frames():
        decoder.feed(frame)
    assert decoder.finish().news == news


def test_a_sighting_costs_two_bytes_and_a_peer_of_the_plan_one_bit() -> None:
    peers = np.arange(0, 1000, 2)
    news = news_out(News((), peers, 900 + peers % 100), 1000)
    assert len(news.SerializeToString()) < 2 * len(peers) + 1000 / 8 + 10


@pytest.mark.parametrize(
    "news",
    [
        pb.News(seen=b"\1", ages=b""),
        pb.News(seen=b"\1", ages=b"\0"),
        pb.News(seen=b"", ages=b"\0\0"),
        pb.News(seen=b"\1", ages=b"\x08\0"),
        pb.News(seen=bytes(1250) + b"\1", ages=b"\0\0"),
        pb.News(seen=bytes(1249) + b"\x80", ages=b"\0\0"),
    ],
)
def test_impossible_news_is_refused(news: pb.News) -> None:
    with pytest.raises(Malformed):
        news_in(news, 7, Limits(records=9999))


def test_the_last_peer_of_a_plan_may_be_in_the_news() -> None:
    assert news_in(pb.News(seen=b"\0\2", ages=b"\2\0"), 7, Limits(records=10)) == News((), np.array([9]), np.array([5]))


def test_a_record_is_verified_as_it_comes_in() -> None:
    assert record_in(record_out(RECORD)) == RECORD
    forged = record_out(RECORD)
    forged.counter += 1
    with pytest.raises(Malformed, match="not this key's signature"):
        record_in(forged)


def test_a_record_says_whose_it_is_by_its_key() -> None:
    assert isinstance(RECORD, MembershipRecord)
    assert record_in(record_out(RECORD)).peer == Identity.from_seed(b"alice").id
