"""`decentral status`: where every peer of a run stands now, or stood when it ended."""

from __future__ import annotations

from dataclasses import asdict

from decentral.cli.output import JsonOption, RunArgument, say, say_json


def status(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Show each peer's phase, round, loss, accuracy and bytes; of algorithms that draw samples, the newest one."""
    from rich.console import Console

    from decentral.algorithms.catalogue import DRAWING
    from decentral.cli.progress import standings_table
    from decentral.launch.background import launcher_pid
    from decentral.run.directory import RunDirectory, peer_name
    from decentral.run.journal import Tail
    from decentral.run.samples import Samples, turn_words
    from decentral.run.standing import Standings
    from decentral.run.summary import attack_words

    run = RunDirectory.open(directory)
    standings = Standings(run.recipe.peers, aside=run.recipe.aside)
    samples, events = Samples(), Tail(directory).poll()
    standings.take_all(events)
    if run.recipe.algorithm in DRAWING:
        samples.take_all(events)
    turn = samples.turn
    running, pid = run.in_use, launcher_pid(run)
    if as_json:
        peers = {peer_name(index): asdict(peer) for index, peer in enumerate(standings.peers)}
        about = {"dir": str(directory), "world": run.world, "running": running, "launcher": pid}
        sample = {"sample": None if turn is None else turn.as_json()} if run.recipe.algorithm in DRAWING else {}
        say_json({**about, **sample, "peers": peers})
        return
    say(f"{run.recipe.name}: {run.recipe.algorithm}, {'running' if running else 'not running'}")
    if (attack := attack_words(run.recipe)) is not None:
        say(f"attack: {attack}")
    if turn is not None:
        for line in turn_words(turn, run.recipe.rounds):
            say(line)
    Console().print(standings_table(standings, run.recipe.rounds))
