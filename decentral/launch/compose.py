"""A recipe's nodes as services of a compose file: one container each, on a network that leads nowhere else.

One service makes everybody's keys into a volume and ends. Each node's container sees its own folder of that volume
alone, so no peer can read what another one signs with.
"""

from __future__ import annotations

from typing import Any

from decentral.launch.apart import APART, AUTHORITY_PORT, names_of
from decentral.launch.render import (
    HEALTH,
    USER,
    Setting,
    check_in_image,
    check_trained_there,
    documents,
    label_of,
    metrics_arguments,
    plugin_texts,
)
from decentral.run.directory import AUTHORITY
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe

NAME = "compose.yaml"
RUN, RECIPE, PLUGINS = "/runs/cluster", "/etc/decentral/recipe.yaml", "/etc/decentral/plugins"
"""In the containers: the folder with everything, the recipe as it was rendered, and plugins, for who prepares."""
PREPARE, NETWORK = "prepare", "peers"
PREPARED = {PREPARE: {"condition": "service_completed_successfully"}}
PROCESSES = 512
"""And threads of a container, at most."""


def rendered(recipe: Recipe | ServingRecipe, setting: Setting) -> str:
    """The compose file. Raises RecipeError that names the key alone."""
    check_in_image(recipe)
    check_trained_there(recipe)
    content = {
        "name": label_of(recipe),
        "services": {
            PREPARE: _prepare(recipe, setting),
            **({AUTHORITY: _authority(setting)} if setting.renew else {}),
            **{name: _node(recipe, setting, name) for name in names_of(recipe)},
            "client": _client(recipe, setting),
        },
        "configs": {name: {"content": text.replace("$", "$$")} for name, _, text in _configs(recipe, setting)},
        "networks": {NETWORK: {"internal": True}},
        "volumes": {"runs": {}, "data": {}},
    }
    return documents(_comment(recipe, setting), content)


def _renewal(setting: Setting) -> list[str]:
    if setting.renew:
        return ["Certificates last seven days; the authority beside the nodes renews them in time."]
    return ["Certificates last seven days: `docker compose up --force-recreate` renews them in their last day."]


def _shown(setting: Setting) -> list[str]:
    if setting.metrics is None:
        return []
    return [f"Metrics are at port {setting.metrics} of each node, for containers of the network `{NETWORK}` alone."]


def _comment(recipe: Recipe | ServingRecipe, setting: Setting) -> list[str]:
    asks = "predict /runs/cluster INPUT" if isinstance(recipe, ServingRecipe) else f"gather {RUN}"
    return [
        f"The nodes of {recipe.name} (hash {recipe.hash[:16]}), a container each: made by `decentral render`.",
        "",
        "  docker compose up --detach",
        f"  docker compose run --rm client {asks}",
        "",
        *_renewal(setting),
        *_shown(setting),
        "Needs Docker 26 and Compose 2.24 or newer: inline configs, and folders of volumes.",
    ]


def _hardened(setting: Setting) -> dict[str, Any]:
    """What every container has: no rights, no writable files but its volume's, no way out."""
    return {
        "image": setting.image,
        "user": f"{USER}:{USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp"],  # noqa: S108  in the container
        "environment": {"HOME": "/tmp", "DECENTRAL_DATA": "/data"},  # noqa: S108
        "networks": [NETWORK],
        "deploy": {"resources": {"limits": {"pids": PROCESSES}}},
    }


def _all_of_it() -> list[dict[str, Any]]:
    return [{"type": "volume", "source": "runs", "target": "/runs"}, _data()]


def _data() -> dict[str, Any]:
    return {"type": "volume", "source": "data", "target": "/data", "read_only": True}


def _own(folder: str, target: str) -> dict[str, Any]:
    """One folder of what was prepared, and nothing beside it."""
    subpath = f"{RUN.removeprefix('/runs/')}/{folder}"
    return {"type": "volume", "source": "runs", "target": target, "volume": {"subpath": subpath}}


def _configs(recipe: Recipe | ServingRecipe, setting: Setting) -> list[tuple[str, str, str]]:
    """Name, place and content of what the service that prepares reads."""
    plugins = enumerate(plugin_texts(setting).items())
    more = [(f"plugin-{number}", f"{PLUGINS}/{name}", text) for number, (name, text) in plugins]
    return [("recipe", RECIPE, recipe.to_yaml()), *more]


def _prepare(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    hosts = ",".join(names_of(recipe))
    command = ["prepare", RECIPE, "--out", RUN, "--hosts", hosts, "--port", str(setting.port), "--apart"]
    configs = [{"source": name, "target": place} for name, place, _ in _configs(recipe, setting)]
    command += [part for config in configs[1:] for part in ("--plugin", config["target"])]
    return {
        **_hardened(setting),
        "command": [*command, *(["--authority", AUTHORITY] if setting.renew else [])],
        "configs": configs,
        "volumes": _all_of_it(),
        "healthcheck": {"disable": True},
        "restart": "no",
    }


def _authority(setting: Setting) -> dict[str, Any]:
    return {
        **_hardened(setting),
        "hostname": AUTHORITY,
        "command": ["authority", "/runs"],
        "depends_on": PREPARED,
        "expose": [str(AUTHORITY_PORT)],
        "volumes": [_own(AUTHORITY, f"/runs/{AUTHORITY}")],
        "healthcheck": {"disable": True},
        "restart": "on-failure",
    }


def _node(recipe: Recipe | ServingRecipe, setting: Setting, name: str) -> dict[str, Any]:
    limits = {"memory": setting.memory.removesuffix("i"), "cpus": str(recipe.threads), "pids": PROCESSES}
    resources: dict[str, Any] = {"limits": limits}
    if setting.gpu:
        resources["reservations"] = {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}
    everywhere = "0.0.0.0"  # noqa: S104  the network of the containers alone
    return {
        **_hardened(setting),
        "hostname": name,
        "command": ["node", "/runs", "--listen", everywhere, *metrics_arguments(setting)],
        "depends_on": PREPARED,
        "expose": [str(port) for port in (setting.port, setting.metrics) if port is not None],
        "volumes": [_own(f"{APART}/{name}", "/runs"), _data()],
        "healthcheck": {
            "test": ["CMD", *HEALTH],
            "interval": "30s",
            "timeout": "10s",
            "retries": 3,
            "start_period": "2m",
        },
        "restart": "on-failure",
        "deploy": {"resources": resources},
    }


def _client(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    asks = ["predict", "--help"] if isinstance(recipe, ServingRecipe) else ["gather", RUN]
    return {
        **_hardened(setting),
        "command": asks,
        "profiles": ["client"],
        "volumes": _all_of_it(),
        "healthcheck": {"disable": True},
        "restart": "no",
    }
