"""A node without a launcher: who it is, and what its process is."""

from __future__ import annotations

import pytest

from decentral.errors import UserError
from decentral.launch.alone import command_of, environment, member_of
from decentral.launch.apart import APART, settle
from decentral.launch.forkserver import ONE_THREAD
from decentral.run.recipe import load_recipe


@pytest.fixture
def run(tmp_path):
    recipe = load_recipe("dimat-digits", ["peers=2"])
    settle(recipe, tmp_path / "run", ("127.0.0.2:7000", "127.0.0.3:7000"), apart=True).close()
    return tmp_path / "run"


def test_a_folder_with_one_key_says_who_its_node_is(run):
    assert member_of(run / APART / "peer-1", None).index == 1
    assert member_of(run, 1).name == "peer-1"


def test_a_folder_with_the_keys_of_all_asks_which_one(run):
    with pytest.raises(UserError, match="keys of 2 nodes; say with --index"):
        member_of(run, None)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_node_that_there_is_not_is_refused(run, index):
    with pytest.raises(UserError, match="nodes 0 to 1"):
        member_of(run, index)


def test_it_is_the_program_that_every_launcher_starts(run):
    member = member_of(run, 0)
    command = command_of(run, member, "0.0.0.0", stay=True)
    assert command[1] == "-P" and command[2].endswith("nodes/peer.py")
    assert command[3:] == ["--dir", str(run), "--index", "0", "--listen", "0.0.0.0", "--stay"]
    assert command_of(run, member, None, stay=False)[3:] == ["--dir", str(run), "--index", "0"]
    assert command_of(run, member, None, stay=False, metrics="9300")[-2:] == ["--metrics", "9300"]


def test_one_thread_of_blas_is_part_of_the_result_and_the_rest_is_the_operator_s(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    found = environment()
    assert {name: found[name] for name in ONE_THREAD} == ONE_THREAD
    assert found["GRPC_VERBOSITY"] == "DEBUG" and found["MALLOC_ARENA_MAX"] == "1"
