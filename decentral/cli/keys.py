"""`decentral keys`: who has which, new ones for a cluster that stands, and none for who is revoked."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.output import JsonOption, RunArgument, note, say, say_json, say_table

if TYPE_CHECKING:
    from decentral.launch.keys import Rotated, Shown

keys = typer.Typer(
    name="keys",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Show, rotate and revoke the keys of a cluster, while it stands. Every command has --json.",
)

NOT_ALL = 1
"""Exit code: some nodes have not done what they were told."""


@keys.command()
def show(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Tell who has which identity and certificate, until when, and who has been revoked."""
    from decentral.launch.keys import Keys
    from decentral.run.directory import open_cluster

    shown = Keys(open_cluster(directory)).show()
    if as_json:
        say_json({"dir": str(directory), "holders": [_plain(each) for each in shown]})
        return
    rows = [_row(each) for each in shown]
    say_table(("who", "identity", "certificate", "expires in", "state"), rows)


@keys.command()
def rotate(
    directory: RunArgument,
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="[default: all]")] = None,
    authority: Annotated[bool, typer.Option("--authority", help="The authority itself, and all certificates.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Its second step: the former one counts no more.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also where nodes would be left behind.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give nodes that run new TLS keys and certificates, without stopping anything; old certificates end.

    With --authority the cluster gets another authority, in two steps: it counts beside the former one and certifies
    everybody; with --finish the former one counts no more. Bring clients the trust.toml after each.

    Exit code 1: somebody has no new certificate yet, and keeps the old one.
    """
    from decentral.errors import UserError
    from decentral.launch.keys import Keys
    from decentral.run.directory import open_cluster

    if (finish and not authority) or (force and not finish) or (authority and nodes):
        raise UserError("--finish belongs to --authority, --force to --finish, and --authority is about all nodes")
    ring = Keys(open_cluster(directory))
    if finish:
        notice = ring.finish(force=force)
        if as_json:
            say_json({"dir": str(directory), "notice": notice.sequence})
        else:
            say("the former authority counts no more")
            say(f"bring clients elsewhere the new {directory / 'trust.toml'}")
        return
    rotated = ring.succeed(note) if authority else ring.rotate(nodes or (), note)
    _say_rotated(directory, rotated, authority, as_json)
    if rotated.missing:
        raise typer.Exit(NOT_ALL)


@keys.command()
def revoke(
    directory: RunArgument,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its name, `client`, or an identity.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for people.")] = "",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="What it said from then on does not count: 2026-05-01T12:00:00Z.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let an identity in no more: every peer refuses it, and ends what it has under way. It cannot be taken back."""
    from decentral.launch.keys import Keys
    from decentral.launch.watching import ASK, LOOK
    from decentral.run.directory import open_cluster

    ring = Keys(open_cluster(directory))
    peer = ring.identity(node)
    notice = ring.revoke(peer, reason, None if since is None else _moment(since))
    ruled = notice.of(peer)
    about = {"since": ruled.revoked, "reason": ruled.reason}
    if as_json:
        say_json({"dir": str(directory), "node": node, "id": peer, "notice": notice.sequence, **about})
        return
    say(f"{node} is revoked ({peer}), by notice {notice.sequence}")
    say(f"nodes that share this folder know within {LOOK:.0f} s, those that ask the authority within {ASK:.0f} s;")
    say(
        f"bring {directory / 'notice.pb'} to those that do not ask, and {directory / 'trust.toml'} to clients elsewhere"
    )


def _moment(text: str) -> int:
    """Raises UserError."""
    from decentral.errors import UserError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--since {text}: is no time such as 2026-05-01T12:00:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _say_rotated(directory: Any, rotated: Rotated, authority: bool, as_json: bool) -> None:
    if as_json:
        lists = {"renewed": rotated.renewed, "at_start": rotated.at_start, "missing": rotated.missing}
        say_json({"dir": str(directory), **{key: list(names) for key, names in lists.items()}})
        return
    say(f"new certificates: {', '.join(rotated.renewed) or 'none'}")
    if rotated.at_start:
        say(f"when they start: {', '.join(rotated.at_start)}")
    if rotated.missing:
        say(f"not yet, and with their old ones still: {', '.join(rotated.missing)}; say the same again")
    if authority:
        say(f"bring clients elsewhere the new {directory / 'trust.toml'}, which names both authorities, and then:")
        say(f"  decentral keys rotate {directory} --authority --finish")


def _row(shown: Shown) -> tuple[str, ...]:
    left = "-" if shown.issued is None else _span(shown.issued.expires - time.time())
    state = shown.state
    if shown.since:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(shown.since))
        state = f"revoked since {when}{f': {shown.reason}' if shown.reason else ''}"
    serial = "-" if shown.issued is None else shown.issued.serial[:16]
    return shown.holder.name or "?", f"{shown.holder.id[:16]}…", serial, left, state


def _span(seconds: float) -> str:
    if seconds <= 0:
        return "-"
    return f"{seconds / 86400:.1f} d" if seconds >= 86400 else f"{seconds / 3600:.1f} h"


def _plain(shown: Shown) -> dict[str, Any]:
    issued = shown.issued
    return {
        "name": shown.holder.name,
        "id": shown.holder.id,
        "runs": shown.holder.runs,
        "serial": None if issued is None else issued.serial,
        "issued": None if issued is None else issued.issued,
        "expires": None if issued is None else issued.expires,
        "authority": None if issued is None else issued.by,
        "state": shown.state,
        "revoked": shown.since or None,
        "reason": shown.reason,
    }
