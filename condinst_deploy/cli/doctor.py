"""`condinst-doctor`: what this machine has, and whether it can run a model file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from condinst_deploy.cli.command import FAILED, command_app, labelled, print_json, results_console, terminal

if TYPE_CHECKING:
    from condinst_deploy.doctor import Check

STYLES = {"ok": "green", "warning": "yellow", "absent": "dim", "failed": "red"}
WIDTH = max(len(status) for status in STYLES)


def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="Checkpoint (.pth), exported file (.onnx) or engine (.engine) to check.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on standard output.")] = False,
) -> None:
    """Check this machine: driver, GPUs, libraries that really load, memory, disk; with a file, whether it runs here.

    Every library is tried in a separate process, so that a broken one is a finding. It takes up to a minute.
    Exit status: 0 nothing that is needed is broken, 1 something is.
    """
    # imported here, so that --help does not wait for it
    from condinst_deploy.doctor import diagnose

    with terminal.status("checking this machine"):
        found = diagnose(file)
    if as_json:
        print_json(found.to_dict(), "the diagnosis")
    else:
        console = results_console()
        console.print(Text("this machine", "bold"))
        for line in _lines(found.machine):
            console.print(line)
        if found.file:
            console.print(labelled("file", "bold", found.path))
            for line in _lines(found.file):
                console.print(line)
    if not found.ok:
        raise typer.Exit(FAILED)


def _lines(checks: "tuple[Check, ...]") -> list[Text]:
    lines = []
    for check in checks:
        lines.append(labelled(f"  {check.status:{WIDTH}} ", STYLES[check.status], f"{check.name}: {check.found}"))
        if check.advice and check.status != "ok":
            lines.append(labelled(f"  {'':{WIDTH}} ", "", f"-> {check.advice}"))
    return lines


main = command_app(doctor)
