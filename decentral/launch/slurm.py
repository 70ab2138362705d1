"""A recipe's nodes as one batch job of Slurm: a task each, on machines that share a filesystem.

The job's first machine makes everybody's keys there, once it knows on which machine each task runs.
"""

from __future__ import annotations

import shlex
from string import Template

from decentral.launch.apart import names_of
from decentral.launch.render import Setting, label_of
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe

NAME = "job.sbatch"
END = "END_OF_RECIPE"

SCRIPT = Template("""\
#!/bin/bash
#SBATCH --job-name=$name
#SBATCH --ntasks=$nodes
#SBATCH --cpus-per-task=$threads
#SBATCH --output=%x-%j.log
$more#
# The nodes of $recipe (hash $hash), a task each: made by `decentral render`.
#
#   sbatch [--partition=...] [--time=...] job.sbatch
#
# On every machine `decentral` has to be on the PATH, and RUNS (default: ./runs) on a filesystem that all of them share.
# Nodes listen on ports from $port on, under mutual TLS. Datasets are looked for in DECENTRAL_DATA.

set -euo pipefail
umask 077
run="$${RUNS:-$$PWD/runs}/$name-$${SLURM_JOB_ID:?is not set: submit this with sbatch}"
mkdir -p "$$(dirname "$$run")"
cat > "$$run.yaml" <<'$end'
$content$end

# The host of each task, in the order of the tasks.
hosts=$$(srun --ntasks=$nodes bash -c 'echo "$$SLURM_PROCID $$(hostname)"' | sort -n | cut -d ' ' -f 2 | paste -sd ,)
decentral prepare "$$run.yaml" --out "$$run" --hosts "$$hosts" --port $port$plugins

status=0
srun --ntasks=$nodes --cpus-per-task=$threads $gpus--kill-on-bad-exit=0 \\
  bash -c 'exec decentral node "$$1" --index "$$SLURM_PROCID" --listen 0.0.0.0' node "$$run" || status=$$?
$after
exit "$$status"
""")


def rendered(recipe: Recipe | ServingRecipe, setting: Setting) -> str:
    """The batch script."""
    trains, content, end = isinstance(recipe, Recipe), recipe.to_yaml(), END
    while end in content:
        end += "_"
    return SCRIPT.substitute(
        name=label_of(recipe),
        recipe=recipe.name,
        hash=recipe.hash[:16],
        nodes=len(names_of(recipe)),
        threads=recipe.threads,
        port=setting.port,
        plugins="".join(f" --plugin {shlex.quote(str(file.resolve()))}" for file in setting.plugins),
        more="#SBATCH --gpus-per-task=1\n" if setting.gpu else "",
        gpus="--gpus-per-task=1 " if setting.gpu else "",
        content=content,
        end=end,
        after='decentral gather "$run"' if trains else "# Nodes serve until the job's time is over, or scancel.",
    )
