"""Run directories: nothing is overwritten, two launchers never share one, and a resumed run is the same run."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from decentral.errors import RunDirectoryError
from decentral.run import directory
from decentral.run.directory import RunDirectory, ServingDirectory, check_empty, open_cluster, peer_name
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_run_is_laid_out_and_opens_again(tmp_path: Path, recipe: Recipe) -> None:
    with RunDirectory.create(tmp_path / "a" / "b", recipe, "sim") as run:
        assert run.recipe_file.read_text() == recipe.to_yaml()
    again = RunDirectory.open(tmp_path / "a" / "b")
    assert (again.recipe, again.world) == (recipe, "sim")
    assert again.checkpoints.is_dir()
    assert again.nodes.is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path, recipe: Recipe) -> None:
    with RunDirectory.create(tmp_path, recipe, "local") as run:
        assert run.path == tmp_path


def test_runs_are_numbered_by_their_recipe(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = []
    for _ in range(2):
        with RunDirectory.create(None, recipe, "local") as run:
            paths.append(run.path)
    (tmp_path / "runs" / "dimat-digits-9").mkdir()
    (tmp_path / "runs" / "dimat-digits-apart-30").mkdir()
    with RunDirectory.create(None, recipe, "local") as run:
        paths.append(run.path)
    assert [path.name for path in paths] == ["dimat-digits-1", "dimat-digits-2", "dimat-digits-10"]


def test_a_folder_that_holds_a_run_is_refused_and_stays_as_it_is(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "run", recipe, "local").close()
    before = content(tmp_path)
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        RunDirectory.create(tmp_path / "run", recipe, "local")
    assert content(tmp_path) == before


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"not empty \(thesis\.tex\)"):
        RunDirectory.create(tmp_path, recipe, "local")
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_is_not_a_folder(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDirectory.create(tmp_path / "file", recipe, "local")
    with pytest.raises(RunDirectoryError, match="cannot be used: Not a directory"):
        RunDirectory.create(tmp_path / "file" / "below", recipe, "local")


def test_an_unwritable_place_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be used"):
        RunDirectory.create("/proc/run", recipe, "local")
    check_empty(Path("/proc/run"))


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "write_atomic", full)
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        RunDirectory.create(tmp_path / "run", recipe, "local")
    monkeypatch.undo()
    with RunDirectory.create(tmp_path / "run", recipe, "local") as run:
        monkeypatch.setattr(directory, "write_atomic", full)
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            run.write(run.summary_file, b"{}")


def test_nothing_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory.open(tmp_path / "missing")
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"hash": "x"}', b"\xff"])
def test_a_damaged_run_is_named(tmp_path: Path, recipe: Recipe, damage: bytes) -> None:
    RunDirectory.create(tmp_path / "run", recipe, "local").close()
    (tmp_path / "run" / "run.json").write_bytes(damage)
    with pytest.raises(RunDirectoryError, match=r"run\.json: damaged"):
        RunDirectory.open(tmp_path / "run")


def test_a_run_is_resumed_with_the_same_recipe_only(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "run", recipe, "sim").close()
    with RunDirectory.resume(tmp_path / "run", recipe) as run:
        assert run.world == "sim"
    moved = recipe.model_copy(update={"device": "cuda"})
    RunDirectory.resume(tmp_path / "run", moved).close()
    other = recipe.model_copy(update={"seed": 1, "peers": 6})
    with pytest.raises(RunDirectoryError, match="these keys differ: peers, seed"):
        RunDirectory.resume(tmp_path / "run", other)


def test_two_launchers_cannot_use_one_directory(tmp_path: Path, recipe: Recipe) -> None:
    with RunDirectory.create(tmp_path / "run", recipe, "local") as run:
        assert run.in_use
        with pytest.raises(RunDirectoryError, match="another launcher is using"):
            RunDirectory.resume(tmp_path / "run", recipe)
        assert RunDirectory.open(tmp_path / "run").in_use
    assert not RunDirectory.open(tmp_path / "run").in_use
    RunDirectory.resume(tmp_path / "run", recipe).close()


def test_a_killed_launcher_lets_go(tmp_path: Path, recipe: Recipe, root: Path) -> None:
    program = textwrap.dedent(
        f"""
        import time
        from decentral.run.directory import RunDirectory
        from decentral.run.recipe import Recipe
        run = RunDirectory.create({str(tmp_path / "run")!r}, Recipe(), "local")
        print("held", flush=True)
        time.sleep(60)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"held\n"
        assert RunDirectory.open(tmp_path / "run").in_use
        launcher.send_signal(signal.SIGKILL)
    assert not RunDirectory.open(tmp_path / "run").in_use


def test_a_nodes_folder_is_its_owners_alone(tmp_path: Path, recipe: Recipe) -> None:
    with RunDirectory.create(tmp_path / "run", recipe, "local") as run:
        folder = run.node(peer_name(2))
        assert folder == run.node("peer-2") == run.journal_file("peer-2").parent == run.log_file("peer-2").parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# ---- of a model that is served ---------------------------------------------------------------------------------------

SERVING = ServingRecipe.model_validate({"name": "serve", "stages": 2, "model": {"recipe": "dimat-digits"}})


def test_a_directory_is_opened_as_what_its_peers_do(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "trains", recipe, "sim").close()
    ServingDirectory.create(tmp_path / "serves", SERVING, "local").close()
    assert isinstance(open_cluster(tmp_path / "trains"), RunDirectory)
    served = open_cluster(tmp_path / "serves")
    assert isinstance(served, ServingDirectory)
    assert (served.recipe, served.world) == (SERVING, "local")
    assert served.stages.is_dir() and served.nodes.is_dir() and not (tmp_path / "serves" / "checkpoints").exists()
    with pytest.raises(RunDirectoryError, match="is of peers in serving, not in training"):
        RunDirectory.open(tmp_path / "serves")
    with pytest.raises(RunDirectoryError, match="is of peers in training, not in serving"):
        ServingDirectory.open(tmp_path / "trains")
    with pytest.raises(RunDirectoryError, match="holds no run"):
        open_cluster(tmp_path)


def test_a_run_from_before_models_were_served_is_one_that_trains(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "run", recipe, "local").close()
    about = tmp_path / "run" / "run.json"
    about.write_text("".join(line for line in about.read_text().splitlines(True) if '"does"' not in line))
    assert isinstance(open_cluster(tmp_path / "run"), RunDirectory)


def test_a_serving_directory_is_gone_on_with_by_its_recipe_only(tmp_path: Path) -> None:
    ServingDirectory.create(tmp_path / "serves", SERVING, "local").close()
    other = SERVING.model_copy(update={"replicas": 4})
    with pytest.raises(RunDirectoryError, match="these keys differ: replicas"):
        ServingDirectory.resume(tmp_path / "serves", other)
    with ServingDirectory.resume(tmp_path / "serves", SERVING) as held:
        held.change(other)
        assert held.in_use
    assert ServingDirectory.open(tmp_path / "serves").recipe == other


def test_what_was_opened_to_read_can_be_held(tmp_path: Path, recipe: Recipe) -> None:
    RunDirectory.create(tmp_path / "run", recipe, "local").close()
    with open_cluster(tmp_path / "run").hold() as held:
        assert held.in_use
        with pytest.raises(RunDirectoryError, match="another launcher is using"):
            open_cluster(tmp_path / "run").hold()
    assert not open_cluster(tmp_path / "run").in_use


def test_a_run_starts_while_others_ask_for_its_state(tmp_path: Path, recipe: Recipe, root: Path) -> None:
    """As `decentral status` does, from another process."""
    folder = tmp_path / "run"
    RunDirectory.create(folder, recipe, "local").close()
    program = (
        "import sys; from pathlib import Path; from decentral import lock; from decentral.run import directory\n"
        "path = Path(sys.argv[1]) / directory.LOCK; print(flush=True)\n"
        "while True: lock.is_held(path)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as looker:
        assert looker.stdout is not None and looker.stdout.readline() == b"\n"
        try:
            for _ in range(10):
                RunDirectory.resume(folder, recipe).close()
        finally:
            looker.kill()
