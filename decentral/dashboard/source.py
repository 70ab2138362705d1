"""Where the page has it from: the seam between what is shown and where it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from decentral.run.journal import Event
from decentral.run.recipe import Recipe
from decentral.run.report import PLACES, graph_of
from decentral.run.serving_recipe import ServingRecipe
from decentral.run.summary import attack_words

MOST_DRAWN = 160
"""Peers up to which the topology's edges are shown."""
MOST_EDGES = 4000


@dataclass(frozen=True, slots=True)
class About:
    """What does not change: how many peers, which of them do not count for means, whether samples are drawn, what
    nodes are called, and what the page says of all this."""

    peers: int
    head: Mapping[str, Any]
    aside: tuple[int, ...] = ()
    draws: bool = False
    names: tuple[str, ...] = ()
    edges: Sequence[tuple[int, int]] = field(default=())


class Source(Protocol):
    """A run or a cluster, near or far. Everything here may block, and raises DecentralError for what cannot be read."""

    def about(self) -> About: ...

    def poll(self) -> Sequence[Event]:
        """The events since the last call, the oldest first."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What no event tells and may have changed, by name, as JSON can hold it."""
        ...

    def picture(self, name: str) -> bytes | None:
        """One of the pictures that `facts` has named; None: there is none of that name."""
        ...

    def close(self) -> None: ...


def about_training(recipe: Recipe, world: str, where: str) -> About:
    """Of peers that train."""
    graph = None if recipe.draws or recipe.peers > MOST_DRAWN else graph_of(recipe)
    edges = [] if graph is None else sorted((int(a), int(b)) for a, b in graph.edges)
    options = (f"{key} {value}" for key, value in recipe.topology.options.items())
    head = {
        **_of_any(recipe, world, where),
        "does": "training",
        "algorithm": recipe.algorithm,
        "rounds": recipe.rounds,
        "peers": recipe.peers,
        "draws": recipe.draws,
        "model": f"{recipe.model.name} on {recipe.data.name}",
        "topology": "" if recipe.draws else " ".join([recipe.topology.name, *options]),
        "aside": list(recipe.aside),
        "attack": attack_words(recipe),
        "experts": recipe.router is not None,
    }
    shown = edges if len(edges) <= MOST_EDGES else []
    return About(recipe.peers, head, recipe.aside, recipe.draws, (), shown)


def about_serving(recipe: ServingRecipe, world: str, where: str) -> About:
    """Of peers that serve a model in stages."""
    nodes = recipe.node_names
    head = {
        **_of_any(recipe, world, where),
        "does": "serving",
        "algorithm": "stages",
        "rounds": 0,
        "peers": len(nodes),
        "draws": False,
        "model": f"{len(recipe.parts)} stages",
        "topology": "",
        "aside": [],
        "attack": recipe.liars_words,
        "experts": False,
    }
    return About(len(nodes), head, names=nodes)


def _of_any(recipe: Recipe | ServingRecipe, world: str, where: str) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "hash": recipe.hash,
        "seed": recipe.seed,
        "world": world,
        "place": PLACES.get(world, f"on {world}"),
        "where": where,
        "simulated": world == "sim",
    }
