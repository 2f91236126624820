"""While a run writes into a folder, every other command that would write there is refused, and leaves it as it is."""

from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.support.folder_lock import locked_folder
from tests.support.models import SHIPPED
from tests.support.recipes import RECIPE

COMMANDS = {
    "predict": "val --model {model} --device cpu",
    "evaluate": "--annotations val.json --images val --model {model} --device cpu",
    "train": "--recipe tiny.toml --train-annotations val.json --train-images val --val-annotations val.json"
    " --val-images val --device cpu",
}
"""Module of `condinst_deploy.cli` -> what is typed before --out. For condinst-batch see `test_output_folders`."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_command_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_shapes(tmp_path, "val", 2)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    arguments = [*COMMANDS[name].format(model=SHIPPED).split(), "--out", "run"]
    command = import_module(f"condinst_deploy.cli.{name}").main
    with locked_folder(Path("run")):
        refused = CliRunner().invoke(command, arguments)
        assert refused.exit_code == 2, refused.exception
        assert list(Path("run").iterdir()) == []
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert line == "error: another run is writing into run; wait for it, or name another folder with --out"
