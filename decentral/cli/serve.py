"""`decentral serve`: what a finished run has trained, at the service of clients until Ctrl-C."""

from __future__ import annotations

import asyncio

from decentral.cli.observing import LogFormatOption, MetricsOption, TraceOption, tell_nodes
from decentral.cli.output import JsonOption, PluginOption, RunArgument, load_plugins, note, say_json, say_now
from decentral.cli.run import PortOption, RestartOption


def serve(
    directory: RunArgument,
    plugins: PluginOption = None,
    restart: RestartOption = None,
    port: PortOption = None,
    metrics: MetricsOption = None,
    trace: TraceOption = None,
    log_format: LogFormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve what a directory holds in the foreground; `decentral up` does it in the background."""
    from decentral.launch.background import RESTARTS, note_launcher
    from decentral.launch.observing.endpoint import At, exposed
    from decentral.launch.serving import ServingRun, parts_of
    from decentral.run.directory import open_cluster

    load_plugins(plugins)
    tell_nodes(trace, log_format)
    files = tuple(str(plugin.resolve()) for plugin in plugins or ())
    with open_cluster(directory).hold() as run:
        note_launcher(run)
        parts = parts_of(run)
        names = [part.name for part in parts if part.script]
        if as_json:
            say_json({"dir": str(directory), "parts": names})
            say_now()
        else:
            note(f"{len(names)} peers of {directory} serve; Ctrl-C ends them")
        restarts = RESTARTS if restart is None else restart
        at = None if metrics is None else At.parse(metrics)
        try:
            with exposed(run, metrics):
                asyncio.run(ServingRun(run, parts, plugins=files, restarts=restarts, port=port, metrics=at).run())
        except asyncio.CancelledError:  # SIGTERM, which `down` sends
            return
