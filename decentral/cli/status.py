"""`decentral status`: where every node of a cluster stands now, or stood when it ended."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from decentral.cli.output import JsonOption, RunArgument, say, say_json, say_table
from decentral.cli.zk_words import standing_words

if TYPE_CHECKING:
    from decentral.run.directory import RunDirectory, ServingDirectory


def status(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Show each peer's phase, round, loss, accuracy and bytes; of algorithms that draw samples, the newest one.

    Of a model that is served in stages, show the parts, and each node with its part and whether it runs.
    """
    from decentral.run.directory import RunDirectory, open_cluster

    run = open_cluster(directory)
    if isinstance(run, RunDirectory):
        show_training(run, as_json)
    else:
        show_serving(run, as_json)


def show_training(run: RunDirectory, as_json: bool) -> None:
    from rich.console import Console

    from decentral.cli.progress import standings_table
    from decentral.launch.background import launcher_pid
    from decentral.run.directory import peer_name
    from decentral.run.journal import Tail
    from decentral.run.samples import Samples, turn_words
    from decentral.run.standing import Standings
    from decentral.run.summary import attack_words

    standings = Standings(run.recipe.peers, aside=run.recipe.aside)
    samples, events = Samples(), Tail(run.path).poll()
    standings.take_all(events)
    if run.recipe.draws:
        samples.take_all(events)
    turn = samples.turn
    running, pid = run.in_use, launcher_pid(run)
    if as_json:
        peers = {peer_name(index): asdict(peer) for index, peer in enumerate(standings.peers)}
        about = {"dir": str(run.path), "world": run.world, "running": running, "launcher": pid}
        sample = {"sample": None if turn is None else turn.as_json()} if run.recipe.draws else {}
        say_json({**about, **sample, "peers": peers})
        return
    say(f"{run.recipe.name}: {run.recipe.algorithm}, {'running' if running else 'not running'}")
    if (attack := attack_words(run.recipe)) is not None:
        say(f"attack: {attack}")
    if turn is not None:
        for line in turn_words(turn, run.recipe.rounds):
            say(line)
    Console().print(standings_table(standings, run.recipe.rounds))


def show_serving(cluster: ServingDirectory, as_json: bool) -> None:
    from decentral.launch.background import launcher_pid

    running, pid, nodes, parts = cluster.in_use, launcher_pid(cluster), nodes_of(cluster), parts_of(cluster)
    proofs = proofs_of(cluster, parts)
    if as_json:
        about = {"dir": str(cluster.path), "world": cluster.world, "running": running, "launcher": pid}
        say_json({**about, "proofs": proofs, "parts": parts, "nodes": nodes})
        return
    say(f"{cluster.recipe.name}: {len(cluster.recipe.parts)} stages, {'running' if running else 'not running'}")
    if (liars := cluster.recipe.liars_words) is not None:
        say(liars)
    say()
    rows = [
        (each["name"], each["at"], each["digest"][:16], f"{each['tolerance']:g}", each["circuit"][:16] or "-")
        for each in parts
    ]
    say_table(("part", "computed at", "digest", "tolerance", "proved by circuit"), rows)
    if proofs is not None:
        say(f"what it proves {standing_words(proofs['standing_on'], proofs['simulated'])}")
    say()
    told = ("part", "phase", "address", "behaviour")
    lines = [(name, *(str(node[key] or "") for key in told)) for name, node in nodes.items()]
    say_table(("node", "part", "phase", "address", "told to lie"), lines)


def parts_of(cluster: ServingDirectory) -> list[dict[str, Any]]:
    """As they are pinned; none before they are."""
    from decentral.trust.anchors import FILE, Anchors

    trust = cluster.path / FILE
    return [asdict(part) for part in Anchors.load(trust).parts] if trust.exists() else []


def proofs_of(cluster: ServingDirectory, parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the proofs of its answers stand on; None where no circuit is pinned."""
    from decentral.errors import Malformed
    from decentral.zk.circuit import FILE, Chain

    pinned = [each["circuit"] for each in parts if each["circuit"]]
    if not pinned:
        return None
    try:
        chain = Chain.decode((cluster.circuits / FILE).read_bytes())
    except (Malformed, OSError) as error:
        return {"standing_on": f"what cannot be read here ({cluster.circuits / FILE}: {error})", "simulated": False}
    if pinned != [circuit.identity.hex() for circuit in chain.circuits]:
        return {"standing_on": f"other circuits than those in {cluster.circuits / FILE}", "simulated": False}
    return {"standing_on": chain.words, "simulated": chain.local}


def nodes_of(cluster: ServingDirectory) -> dict[str, dict[str, Any]]:
    """By name: its part, whether it runs, what it was last known to do, where, and what it is told to lie by."""
    from decentral.launch.cluster import FILE, Cluster, is_running
    from decentral.run.journal import Tail
    from decentral.run.standing import Standings

    recipe = cluster.recipe
    standings = Standings(len(recipe.nodes))
    standings.take_all(Tail(cluster.path).poll())
    members = Cluster.load(cluster.path).members if (cluster.path / FILE).exists() else ()
    addresses = {member.name: member.address for member in members}
    nodes = {}
    for replica, standing in zip(recipe.nodes, standings.peers, strict=True):
        running, liar = is_running(cluster.nodes / replica.node), recipe.liars.get(replica.node)
        nodes[replica.node] = {
            "part": recipe.parts[replica.stage],
            "running": running,
            "phase": standing.phase if running or standing.gone else "not running",
            "address": addresses.get(replica.node),
            "behaviour": None if liar is None else liar.name,
        }
    return nodes
