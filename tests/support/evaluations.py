"""Runs of `condinst-eval` in this process."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from condinst_deploy.cli.evaluate import main


def evaluate(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def metrics(out: Path = Path("evaluation")) -> Any:
    return json.loads((out / "figures.json").read_text())
