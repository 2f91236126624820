"""`condinst-doctor`: what this machine has, and whether it can run a model file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from condinst_deploy.cli.command import FAILED, command_app, terminal

if TYPE_CHECKING:
    from condinst_deploy.doctor import Check

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "absent": "[dim]absent[/]", "failed": "[red]failed[/]"}
WIDTH = max(len(status) for status in MARKS)


def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="Checkpoint (.pth), exported file (.onnx) or engine (.engine) to check.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
) -> None:
    """Check this machine: driver, GPUs, libraries that really load, memory, disk; with a file, whether it runs here.

    Every library is tried in a process of its own, so that a broken one is a finding. It takes up to a minute.
    Exit status: 0 nothing that is needed is broken, 1 something is.
    """
    # imported here, so that --help does not wait for it
    from condinst_deploy.doctor import diagnose

    with terminal.status("checking this machine"):
        found = diagnose(file)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        console = Console(highlight=False, soft_wrap=True, emoji=False)
        console.print("[bold]this machine[/]")
        for line in _lines(found.machine):
            console.print(line)
        if found.file:
            console.print(f"[bold]{escape(found.path)}[/]")
            for line in _lines(found.file):
                console.print(line)
    if not found.ok:
        raise typer.Exit(FAILED)


def _lines(checks: "tuple[Check, ...]") -> list[str]:
    lines = []
    for check in checks:
        padding = " " * (WIDTH - len(check.status))
        lines.append(f"  {MARKS[check.status]}{padding}  {check.name}: {escape(check.found)}")
        if check.advice and check.status != "ok":
            lines.append(f"  {' ' * WIDTH}  -> {escape(check.advice)}")
    return lines


main = command_app(doctor)
