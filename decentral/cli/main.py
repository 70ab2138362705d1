"""`decentral`: one small file per command, imported when it is used or listed; nothing here imports torch.

What a person gave us and we cannot use ends in one paragraph and exit code 2; --debug, anywhere, shows the traceback.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from decentral.cli.output import drop_output, note, say
from decentral.errors import DecentralError, Untraceable, UserError, leading
from decentral.registry import nearest

COMMANDS = (
    "demo",
    "run",
    "recipes",
    "show",
    "report",
    "dashboard",
    "up",
    "serve",
    "add",
    "remove",
    "drain",
    "status",
    "logs",
    "down",
    "predict",
    "gateway",
    "verify",
    "calibrate",
    "leakage",
    "attest",
    "zk",
    "host",
    "join",
    "render",
    "prepare",
    "node",
    "authority",
    "keys",
    "gather",
    "generate",
    "doctor",
)
"""In the order of `--help`. Each is the function, or the group of commands, of its name in the module of its name."""

BAD_INPUT, FAILED, INTERRUPTED, UNREAD = 2, 1, 130, 141
"""Exit codes; the last two are those of a program that SIGINT or SIGPIPE has ended."""

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What a disk, or whatever stands behind the standard output, can do to us: no mistake of ours."""


class Commands(TyperGroup):
    """Finds commands by name and turns expected errors into a paragraph and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        function = getattr(importlib.import_module(f"decentral.cli.{cmd_name}"), cmd_name)
        if isinstance(function, typer.Typer):
            return typer.main.get_command(function)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name)(function)
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"No such command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """--debug counts wherever it stands, since one adds it to the end of what has just failed."""
        own = args[: args.index("--")] if "--" in args else args
        if "--debug" in own:
            args = ["--debug", *[arg for arg in own if arg != "--debug"], *args[len(own) :]]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def main(self, *args: Any, **options: Any) -> Any:
        """Around everything, because `--help` and `--version` speak before any command is invoked."""
        try:
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()  # at the interpreter's end it would be too late to say what is wrong
        except BrokenPipeError:
            drop_output()
            sys.exit(UNREAD)
        except OSError as error:
            if error.errno not in UNWRITABLE or "--debug" in sys.argv:
                raise
            drop_output()
            note(f"error: cannot write{f' {error.filename}' if error.filename else ''}: {error.strerror}")
            sys.exit(BAD_INPUT)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head`: whoever reads has enough
            drop_output()
            raise typer.Exit(UNREAD) from None
        except KeyboardInterrupt as stopped:
            note("; ".join(["interrupted", *getattr(stopped, "__notes__", ())]))
            raise typer.Exit(INTERRUPTED) from None
        except (DecentralError, BaseExceptionGroup) as error:
            expected = leading(error) if isinstance(error, BaseExceptionGroup) else error
            if expected is None or ctx.params.get("debug"):
                raise
            note(f"error: {expected}")
            code = BAD_INPUT if isinstance(expected, UserError | Untraceable) else FAILED
            raise typer.Exit(code) from None


app = typer.Typer(
    cls=Commands,
    name="decentral",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich doubles the time that --help takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        say(importlib.metadata.version("decentral"))
        raise typer.Exit


@app.callback()
def decentral(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Train a model together with peers who do not trust one another, serve it, and check its answers."""
