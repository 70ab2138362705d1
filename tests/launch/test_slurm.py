"""A batch job of a recipe's nodes: a shell takes it, and run by something that plays srun it comes to its end."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from decentral.launch.render import Setting, rendered
from decentral.models.catalogue import MODELS
from decentral.models.mlp import mlp
from tests.launch.rendered import serving, training

SRUN = """\
#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --ntasks=* ]] && tasks="${1#*=}"; shift; done
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task "$@" & started+=("$!"); done
status=0
for one in "${started[@]}"; do wait "$one" || status=$?; done
exit "$status"
"""
"""Every task a process of this machine."""


def parses(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "job.sbatch").write_text(text)
    command = ["bash", "-n", str(folder / "job.sbatch")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("recipe", [training(), serving()], ids=["training", "serving"])
@pytest.mark.parametrize("gpu", [False, True])
def test_a_shell_takes_it(recipe, gpu, tmp_path):
    assert parses(rendered(recipe, "slurm", Setting(gpu=gpu)), tmp_path).returncode == 0
    assert parses("if true; then", tmp_path).returncode != 0


@pytest.mark.parametrize("recipe", [training(), serving()], ids=["training", "serving"])
def test_slurm_itself_takes_it(recipe, tmp_path):
    if shutil.which("sbatch") is None:
        pytest.skip("there is no Slurm here")
    (tmp_path / "job.sbatch").write_text(rendered(recipe, "slurm", Setting()))
    command = ["sbatch", "--test-only", str(tmp_path / "job.sbatch")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_there_is_a_task_for_each_node_and_what_it_needs():
    text = rendered(training("threads=3"), "slurm", Setting(gpu=True))
    directives = {line for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"#SBATCH --ntasks=2", "#SBATCH --cpus-per-task=3", "#SBATCH --gpus-per-task=1"} <= directives
    assert "#SBATCH --ntasks=9" in rendered(serving(), "slurm", Setting())


def test_no_line_of_a_recipe_ends_it():
    recipe = training()
    data = recipe.data.model_copy(update={"options": {"of": "END_OF_RECIPE"}})
    text = rendered(recipe.model_copy(update={"data": data}), "slurm", Setting())
    assert text.count("\nEND_OF_RECIPE_\n") == 1 and "<<'END_OF_RECIPE_'" in text


def test_outside_a_job_it_says_so_and_does_nothing(tmp_path):
    (tmp_path / "job.sbatch").write_text(rendered(training(), "slurm", Setting()))
    command = ["bash", "job.sbatch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "submit this with sbatch" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["job.sbatch"]


@pytest.mark.slow
def test_a_job_makes_keys_trains_and_gathers(tmp_path, monkeypatch):
    """With real peers of a plugin's network; srun is played, and all tasks find themselves on one machine."""
    monkeypatch.setitem(MODELS._entries, "of-mine", mlp)
    plugin = tmp_path / "of mine.py"
    plugin.write_text(
        "from decentral import register_model\nfrom decentral.models.mlp import mlp\nregister_model('of-mine')(mlp)\n"
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        "srun": SRUN,
        "hostname": "#!/bin/bash\necho 127.0.0.1\n",
        "decentral": f'#!/bin/bash\nexec {sys.executable} -P -m decentral "$@"\n',
    }
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = training("rounds=2", "model={name: of-mine, hidden: [8]}")
    (tmp_path / "job.sbatch").write_text(rendered(recipe, "slurm", Setting(port=min(port, 65000), plugins=(plugin,))))
    command = ["bash", "job.sbatch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "runs" / "dimat-digits-7" / "summary.json").read_text())
    assert summary["rounds"] == 2 and None not in summary["accuracy"]["per_peer"]
