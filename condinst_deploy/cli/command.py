"""What all commands share: one clear line for an error, no traceback, a meaningful exit status."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from condinst_deploy.errors import CondInstError

FAILED, INTERRUPTED = 1, 130

terminal = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Where progress and remarks go; standard output carries results only."""

P = ParamSpec("P")


class Pixels(StrEnum):
    """The values of `InputOptions.pixels`."""

    EXACT, FAST, CUDA = "exact", "fast", "cuda"


def progress_bar() -> Progress:
    """Bars on the terminal: what, how far, how many of how many, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=terminal, transient=True)


def command_app(function: Callable[P, None]) -> typer.Typer:
    """A command line of one function; call it to run.

    Exit status: 0 done, 1 failed with one line on standard error, 2 wrong usage, 130 interrupted.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except CondInstError as e:
            terminal.print(f"[bold red]error:[/] {escape(str(e))}")
            raise typer.Exit(FAILED) from e
        except KeyboardInterrupt as e:
            terminal.print("interrupted; nothing was left half-written")
            raise typer.Exit(INTERRUPTED) from e

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(guarded)
    return app
