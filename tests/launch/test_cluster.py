"""The file that every node reads first, the lock that keeps it single, and what a client pins."""

from __future__ import annotations

import pytest

from decentral.algorithms.presence import Member
from decentral.errors import RunDirectoryError, UserError
from decentral.launch.cluster import FILE, Cluster, is_running, node_lock
from decentral.wire.identity import Identity


@pytest.fixture
def members() -> tuple[Member, ...]:
    return tuple(Member(i, f"peer-{i}", Identity.generate().id, f"127.0.0.1:{7000 + i}") for i in range(3))


def test_what_is_saved_is_loaded(tmp_path, members):
    cluster = Cluster(members, epoch=12.25, plugins=("mine.py",), authority="127.0.0.1:7777")
    cluster.save(tmp_path)
    assert Cluster.load(tmp_path) == cluster


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"members": [{}], "epoch": 0, "plugins": []}', "{"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(RunDirectoryError, match=FILE):
        Cluster.load(tmp_path)


def test_a_node_is_single(tmp_path):
    assert not is_running(tmp_path)
    with node_lock(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(UserError, match="running already"), node_lock(tmp_path):
            raise AssertionError("two nodes hold one lock")
    assert not is_running(tmp_path)
