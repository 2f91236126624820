"""Shared parts of all commands: literal output, one line for an error, the exit status."""

import inspect
import re
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from itertools import pairwise
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperCommand

from condinst_deploy.cli import completion
from condinst_deploy.errors import CondInstError, ConfigError
from condinst_deploy.shown_text import LONGEST, shown, shown_value
from condinst_deploy.support import current_folder
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.launch import FAILED as FAILED
from condinst_deploy.support.launch import drop_unwritable_output, is_stopped_import, leave, reason_of, run, say
from condinst_deploy.support.signals import exit_status
from condinst_deploy.support.versions import __version__

USAGE = 2


UNBOUNDED = 100_000
"""Columns of a console that is no terminal: cells of tables stay whole, so that a script finds their text."""


class PlainConsole(Console):
    """Shows every text as it is, in messages and in cells of tables: no markup, no emoji codes, no escape sequences.

    Style comes from `rich.text.Text` alone, which a file cannot make; see `labelled`.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
        if not self.is_terminal:
            self.width = UNBOUNDED

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape what a terminal would obey; rich asks this of every plain string."""
        return super().render_str(shown(text, LONGEST), **options)


terminal = PlainConsole(stderr=True)
"""Console for progress and remarks, on standard error; standard output carries results only."""

P = ParamSpec("P")

CLASS_NAME = re.compile(r'\s*+(?:"(?P<quoted>(?:[^"]|"")*+)"|(?P<plain>[^",\s][^,]*+|))\s*+(?:,|$)')
"""One entry of --classes, and the comma behind it."""


def class_names(text: str | None) -> tuple[str, ...] | None:
    """The value of --classes: names with commas between them, in double quotes where one has a comma itself.

    Returns:
        The names; None if the option was not given.

    Raises:
        ConfigError: it names no class, or a quote is not closed.
    """
    if text is None:
        return None
    expected = (
        "expected names of classes with commas between them,"
        " in double quotes if a name has a comma or spaces at its ends"
    )
    names = []
    rest = text
    while rest.strip():
        match = CLASS_NAME.match(rest)
        if match is None:
            raise ConfigError(f"--classes is {shown_value(text)} (at {shown_value(rest.strip())}); {expected}")
        quoted, plain = match["quoted"], match["plain"]
        name = plain.strip() if quoted is None else quoted.replace('""', '"')  # in quotes, spaces are the name's own
        names += [name] if name else []
        rest = rest[match.end() :]
    if not names:
        raise ConfigError(f"--classes is {shown_value(text)}; {expected}")
    return tuple(names)


class Pixels(StrEnum):
    """The values of `InputOptions.pixels`."""

    EXACT, FAST, CUDA = "exact", "fast", "cuda"


class Precision(StrEnum):
    """The values of `contract.precision.Precision`."""

    FLOAT32, FLOAT16, BFLOAT16 = "float32", "float16", "bfloat16"


DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

ClassesOption = Annotated[
    str | None,
    typer.Option(
        help="Class names to keep, with commas between them; a name that has a comma, or spaces at its ends,"
        " stands in double quotes: '\"cup, large\",plate'. Default: all."
    ),
]
"""`class_names` reads its value."""

MaxDetectionsOption = Annotated[
    int | None,
    typer.Option(
        help="Most detections of an image; the best are kept. Exported files and engines: at most their own number."
    ),
]

SCORE_THRESHOLD_HELP = (
    "Keep scores (class probability and centerness together) above it. Default: the model's own, which is the lowest"
    " for exported files and engines."
)

BatchSizeOption = Annotated[
    int | None, typer.Option(help="Images of equal padded shape run at once. Default: 1 on a CPU, 8 on a GPU.")
]

PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Precision of a checkpoint's network; other files have their own. Default: float32."),
]

RayWorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Workers on Ray. Default: as many as the cluster has room for.")
]

CanvasOption = Annotated[
    list[str] | None,
    typer.Option(
        "--canvas",
        metavar="HEIGHTxWIDTH",
        help="Pad images to the smallest of these sizes that holds them; repeat it. More images share a batch, and"
        " a GPU captures fewer shapes. Results change, because the network's norms see the padding: 95 % of the"
        " detections above 0.3 had a counterpart (docs/performance.md). Default: each image to multiples of 32.",
    ),
]
"""Option of every command that has a predictor; `canvases_of` reads its value."""


def canvases_of(texts: list[str] | None) -> tuple[tuple[int, int], ...] | None:
    """Return `PredictorOptions.canvases` of --canvas.

    Raises:
        ConfigError: a text is no size.
    """
    if not texts:
        return None
    # imported here, so that --help does not wait for it
    from condinst_deploy.runtime.canvases import canvas_from

    return tuple(canvas_from(text, "--canvas") for text in texts)


class DescriptionColumn(ProgressColumn):
    """Description of the current work, printed literally: rich's own column would interpret it as markup."""

    def render(self, task: Task) -> Text:
        """The description in one line."""
        return Text(shown(task.description, 200))


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Bars on the terminal: what, how far, and the columns, or how many of how many and the time that is left.

    Without a terminal there is no bar, and no empty line in its place.
    """
    others = columns or (MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not terminal.is_terminal
    return Progress(DescriptionColumn(), BarColumn(), *others, console=terminal, transient=True, disable=hidden)


def results_console() -> PlainConsole:
    """Standard output, for tables and lines of text."""
    return PlainConsole()


def labelled(label: str, style: str, text: object) -> Text:
    """A label in a style, and a text as it is."""
    return Text.assemble((label, style), " ", shown(text))


def print_line(text: object) -> None:
    """A result on standard output: one line, as it is."""
    print(shown(text), flush=True)


def print_json(value: Any, what: str = "the summary") -> None:
    """A result on standard output as JSON.

    Raises:
        OutputError: a number in it is NaN or infinite.
    """
    print(json_text(value, what, indent=2), flush=True)


class CommandInShell(TyperCommand):
    """The one command of a command line; completion for a shell that is not there is one line and status 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look at the options for completion, and at names joined by commas, before typer does."""
        problem = completion.refusal(args)
        if problem is not None:
            _show_error(problem)
            raise typer.Exit(FAILED)
        given = tuple(args)  # typer empties the list
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as e:
            if joined := _joined_by_commas(e.param, given):
                e.message += f" Repeat the option: {joined}"
            raise


def _joined_by_commas(option: Any, arguments: tuple[str, ...]) -> str | None:
    """What to give in place of several values with commas between them, of an option that can be repeated."""
    if getattr(option, "multiple", False):
        joined = [(name, value) for name, is_there, value in (each.partition("=") for each in arguments) if is_there]
        for name, value in (*pairwise(arguments), *joined):
            if name in option.opts and "," in value:
                return " ".join(f"{name} {part.strip()}" for part in value.split(","))
    return None


class Command(typer.Typer):
    """A command line; call it to run it to the end of the process."""

    extra: str | None = None  # that brings all that the command needs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with signals heard, and with every error in one line."""
        run(lambda: super(Command, self).__call__(*args, **kwargs), self.extra)


def _show_version(context: typer.Context, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        print(f"{context.info_name} {__version__}")
        raise typer.Exit


VERSION = inspect.Parameter(
    "version",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ],
)
"""The option that every command has."""


def command_app(function: Callable[P, None], *, extra: str | None = None) -> Command:
    """A command line of one function; call it to run.

    Where a library is missing, `extra` is named if it brings that library: one command then installs all of them.

    Every command has --version, and --install-completion for the shell in use. Exit status: 0 done, 1 failed with one
    line on standard error, 2 wrong usage (options that the command line or a `ConfigError` refuses), 130 interrupted by
    Ctrl-C, 143 by SIGTERM. A file that is missing, cannot be read or has the wrong content is 1; a name of another kind
    than an option takes, and a folder in place of a file, are 2.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        kwargs.pop(VERSION.name, None)
        if current_folder.is_gone():  # MKL would end the process in the middle of the work, with its own line
            _show_error(current_folder.GONE)
            raise typer.Exit(FAILED)
        try:
            function(*args, **kwargs)
        except (CondInstError, KeyboardInterrupt) as e:
            if isinstance(e, KeyboardInterrupt) or is_stopped_import(e):
                say("interrupted; nothing was left half-written")
                raise typer.Exit(exit_status(e)) from e
            _show_error(f"{e}")
            raise typer.Exit(USAGE if isinstance(e, ConfigError) else FAILED) from e
        except BrokenPipeError:  # the reader of standard output has closed it
            leave(FAILED)
        except (OSError, MemoryError) as e:
            _show_error(reason_of(e).removeprefix("error: "))
            drop_unwritable_output()
            raise typer.Exit(FAILED) from e

    signature = inspect.signature(function)
    guarded.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), VERSION]
    )
    guarded.__annotations__ = function.__annotations__ | {VERSION.name: VERSION.annotation}
    app = Command(add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.extra = extra
    app.command(cls=CommandInShell, context_settings={"help_option_names": ["-h", "--help"]})(guarded)
    return app


def _show_error(message: str) -> None:
    try:
        terminal.print(labelled("error:", "bold red", message))
    except OSError:  # standard error cannot be written either
        say(f"error: {message}")
