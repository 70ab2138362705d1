"""The laws of the house: what may import what, what no file may contain, what every file must have.

Each search for something forbidden is itself tested on a sample that contains it, so that it cannot pass by blindness.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decentral.errors import Refusal

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "decentral"
GENERATED = HOUSE / "wire" / "v1"


def sources(*folders: str) -> Iterator[Path]:
    """Python files written by hand."""
    for folder in folders or ("decentral",):
        yield from sorted(p for p in (ROOT / folder).rglob("*.py") if GENERATED not in p.parents)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = list(sources())
EVERYTHING = list(sources("decentral", "nodes", "benchmarks", "tests"))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


# Floors


def test_every_room_imports_only_from_lower_floors() -> None:
    """In a process of its own: the linter silences all loggers of the one that it runs in."""
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


TORCH_FREE = [
    "decentral",
    "decentral.errors",
    "decentral.registry",
    "decentral.core.attacks",
    "decentral.core.encodings",
    "decentral.core.outer",
    "decentral.core.gating",
    "decentral.core.rules",
    "decentral.core.topology",
    "decentral.models.catalogue",
    "decentral.data.datasets",
    "decentral.data.partition",
    "decentral.training.catalogue",
    "decentral.wire.messages",
    "decentral.wire.transport",
    "decentral.wire.clock",
    "decentral.wire.identity",
    "decentral.wire.authority",
    "decentral.algorithms.catalogue",
    "decentral.attestation.snp.platform",
    "decentral.attestation.snp.verification",
    "decentral.trust.anchors",
    "decentral.trust.evidence",
    "decentral.trust.policy",
    "decentral.zk.bundle",
    "decentral.zk.circuit",
    "decentral.zk.store",
    "decentral.zk.verification",
    "decentral.launch.plan",
    "decentral.launch.apart",
    "decentral.launch.gathering",
    "decentral.launch.granting",
    "decentral.launch.hosting",
    "decentral.launch.entering",
    "decentral.launch.health",
    "decentral.launch.render",
    "decentral.launch.compose",
    "decentral.launch.kuberay",
    "decentral.launch.kubernetes",
    "decentral.launch.slurm",
    "decentral.launch.local",
    "decentral.launch.ray.options",
    "decentral.launch.ray.parcel",
    "decentral.launch.prepare",
    "decentral.launch.serving",
    "nodes.quoting",
    "decentral.serving.adversaries.catalogue",
    *(module_of(p) for p in MODULES if p.parent in (HOUSE / "run", HOUSE / "cli", HOUSE / "dashboard")),
]

SLIM = ["nodes.peer", "nodes.stage", "decentral.launch.assembly"]
"""What every process of a cluster imports before it knows its recipe: diffusers alone would double the wait."""

WITHOUT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ImportError(f"is imported by way of {name}")

absent = sys.argv[1].split(",")
sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""


def imports_that_fail_without(absent: str, modules: list[str]) -> list[str]:
    command = [sys.executable, "-c", WITHOUT, absent, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(("absent", "modules"), [("torch,torchvision", TORCH_FREE), ("diffusers,torchvision", SLIM)])
def test_what_has_to_start_fast_does_not_import_what_is_slow(absent: str, modules: list[str]) -> None:
    assert imports_that_fail_without(absent, modules) == []


@pytest.mark.parametrize(
    ("absent", "module"), [("torch", "decentral.training.learner"), ("diffusers", "decentral.models.experts")]
)
def test_the_search_for_an_import_sees_a_module_that_needs_it(absent: str, module: str) -> None:
    assert imports_that_fail_without(absent, [module]) != []


# Every file


def test_a_file_is_short_enough_to_be_one_thing() -> None:
    assert [name_of(path) for path in EVERYTHING if len(path.read_text().splitlines()) > 400] == []


def test_a_file_says_what_it_is_for() -> None:
    files = [*MODULES, *sources("nodes", "benchmarks")]
    assert [name_of(path) for path in files if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_file_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc", "shared"}
    assert [name_of(path) for path in EVERYTHING if path.stem in drawers] == []


# Modules that are specified where they are used: values without behaviour, parts of one thing, tables.
TESTED_ELSEWHERE = {
    "__main__.py": "cli/test_main.py",
    "cli/doctor.py": "cli/test_main.py",
    "cli/down.py": "cli/test_up.py",
    "cli/logs.py": "cli/test_up.py",
    "cli/output.py": "cli/test_main.py",
    "cli/recipes.py": "cli/test_main.py",
    "cli/show.py": "cli/test_main.py",
    "cli/zk_words.py": "cli/test_zk.py",
    "launch/answering.py": "launch/test_gateway.py",
    "launch/life.py": "launch/test_serving.py",
    "launch/pool/program.py": "launch/pool/test_processes.py",
    "launch/ray/actor.py": "launch/ray/test_engine.py",
    "launch/ray/gauges.py": "launch/ray/test_engine.py",
    "launch/ray/nodes.py": "launch/ray/test_engine.py",
    "data/archives.py": "data/test_datasets.py",
    "models/cnn.py": "models/test_catalogue.py",
    "models/mlp.py": "models/test_catalogue.py",
    "models/resnet_cifar.py": "models/test_catalogue.py",
    "models/vgg.py": "models/test_catalogue.py",
    "models/attention.py": "models/test_rules.py",
    "models/calls.py": "models/test_rules.py",
    "models/collection.py": "models/test_tracing.py",
    "models/moves.py": "models/test_rules.py",
    "models/units.py": "models/test_axes.py",
    "run/charts.py": "run/test_report.py",
    "run/experiment.py": "run/test_recipe.py",
    "run/explain.py": "run/test_recipe.py",
    "run/serving_check.py": "run/test_serving_recipe.py",
    "training/catalogue.py": "training/test_classifier.py",
    "training/learner.py": "training/test_classifier.py",
    "wire/certificate.py": "wire/test_authority.py",
    "zk/arguments.py": "zk/test_setup.py",
    "zk/backend.py": "zk/test_worker.py",
    "zk/export.py": "zk/test_setup.py",
    "zk/reading.py": "zk/test_proving.py",
    "wire/grpc_service.py": "wire/test_transport.py",
    "wire/grpc_transport.py": "wire/test_transport.py",
    "wire/limits.py": "wire/test_tensors.py",
    "wire/messages.py": "wire/test_codec.py",
    "wire/rpc.py": "wire/test_transport.py",
}


def specification_of(module: Path) -> Path:
    tests = TESTED_ELSEWHERE.get(module.as_posix(), str(module.with_name(f"test_{module.name}")))
    return ROOT / "tests" / tests


def test_every_module_has_its_specification() -> None:
    specifications = [specification_of(p.relative_to(HOUSE)) for p in MODULES if p.name != "__init__.py"]
    assert [name_of(path) for path in specifications if not path.is_file()] == []


# What no module contains


UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load"}
UNSAFE_CALLS |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "pickle.Unpickler"}

# CIFAR is published as pickles: its reader derives from pickle's, constructs three stand-ins, refuses all other names.
# Of an operator's own file of parameters, torch reads tensors in plain containers alone.
ALLOWED: dict[Path, tuple[str, ...]] = {
    HOUSE / "data" / "cifar.py": ("import pickle",),
    HOUSE / "training" / "parameters.py": ("from pickle import", "torch.load()"),
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(source: str) -> Iterator[str]:
    """Constructs that run what they read, or that swallow what went wrong."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names=names):
                yield from (f"{line}: import {a.name}" for a in names if a.name.split(".")[0] in UNSAFE_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNSAFE_MODULES:
                yield f"{line}: from {module} import"
            case ast.Call(func=function, keywords=keywords):
                if dotted(function) in UNSAFE_CALLS:
                    yield f"{line}: {dotted(function)}()"
                for keyword in keywords:
                    if keyword.arg in {"shell", "allow_pickle"} and getattr(keyword.value, "value", True):
                        yield f"{line}: {keyword.arg}="
            case ast.ExceptHandler(type=None):
                yield f"{line}: bare except"
            case ast.ExceptHandler(body=[ast.Pass()], type=ast.Name(id="Exception" | "BaseException")):
                yield f"{line}: except that forgets"


def test_nothing_executes_what_it_reads() -> None:
    assert [
        f"{name_of(path)}:{found}"
        for path in (*MODULES, *sources("nodes"))
        for found in forbidden(path.read_text())
        if not found.endswith(ALLOWED.get(path, ()))
    ] == []


@pytest.mark.parametrize(
    "lie",
    [
        "import pickle",
        "from pickle import loads",
        "pickle.loads(b'')",
        "pickle.Unpickler(file)",
        "import torch\ntorch.load('model.pt')",
        "eval('1')",
        "exec('x = 1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import numpy\nnumpy.load('x.npy', allow_pickle=True)",
        "import yaml\nyaml.load('a: 1', Loader=None)",
        "try:\n    x = 1\nexcept:\n    x = 2",
        "try:\n    x = 1\nexcept Exception:\n    pass",
    ],
)
def test_the_search_for_the_forbidden_sees_it(lie: str) -> None:
    assert list(forbidden(lie)) != []


@pytest.mark.parametrize(
    "honest",
    [
        "model.eval()",
        "safetensors.torch.load_file('m')",
        "subprocess.run(['ls'], shell=False)",
        "yaml.safe_load('a: 1')",
    ],
)
def test_the_search_for_the_forbidden_lets_honest_code_be(honest: str) -> None:
    assert list(forbidden(honest)) == []


UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|to be measured)\b")
MACHINE = re.compile(r"/(work|home|root)/\w|\bsite-packages/|pypi\.org|download\.pytorch\.org")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [*MODULES, *sources("nodes", "benchmarks"), *RECIPES, *PAGES]


@pytest.mark.parametrize("words", [UNFINISHED, MACHINE], ids=["unfinished", "of one machine"])
def test_nothing_is_left_unfinished_or_tied_to_one_machine(words: re.Pattern[str]) -> None:
    assert [(name_of(path), found) for path in WRITTEN for found in words.findall(path.read_text())] == []


# Pages


ROOM = re.compile(r"^\| (?:`(\w+)/`|beside them) \|.*?\n\n", re.MULTILINE | re.DOTALL)
"""A table of the map: of one room, or of the files that lie beside the rooms."""


def test_the_map_names_every_file_in_its_room() -> None:
    map_of_the_house = (ROOT / "docs" / "architecture.md").read_text()
    named = {table[1]: set(re.findall(r"`(\w+)`", table[0])) for table in ROOM.finditer(map_of_the_house)}
    for path in MODULES:
        room, *rest = path.relative_to(HOUSE).parts
        if not path.stem.startswith("__"):
            assert path.stem in named[room if rest else None], name_of(path)


EVENT = re.compile(r"""(?:\.record|_note)\(\s*"([a-z_]+)\"""")


def test_every_event_of_a_journal_stands_on_the_map() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## The journal")[2].partition("\n## ")[0]
    known = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.partition(" |")[0])}
    told = {event for path in MODULES for event in EVENT.findall(path.read_text())}
    assert len(told) > 30
    assert told - known == set()


def test_every_refusal_is_explained_on_the_page_of_the_wire() -> None:
    page = (ROOT / "docs" / "wire.md").read_text().partition("## Refusals")[2]
    assert [refusal.name for refusal in Refusal if f"`{refusal.name}`" not in page] == []


def test_every_figure_is_shown_on_a_page() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    figures = [figure.name for figure in (ROOT / "docs" / "figures").iterdir()]
    assert [figure for figure in figures if f"figures/{figure}" not in pages] == []


def test_every_claim_that_is_measured_says_where_its_figures_stand() -> None:
    index = (ROOT / "docs" / "results.md").read_text()
    claims = [path for path in sources("benchmarks") if '"--json"' in path.read_text()]  # as `make bench` finds them
    assert [name_of(path) for path in claims if f"`{path.stem}`" not in index] == []


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_is_short_and_starts_with_its_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("#")
    assert f"decentral run {path.stem}" in header or f"decentral up {path.stem}" in header
    assert len(lines) < 60
