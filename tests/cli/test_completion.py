"""Completion of options in a shell, and a command that no shell has started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import shellingham
from typer.testing import CliRunner

from condinst_deploy.cli.command import command_app


def test_completion_names_the_options() -> None:
    environment = {"_MAIN_COMPLETE": "complete_bash", "COMP_WORDS": "main --sco", "COMP_CWORD": "1"}
    command = "import sys; sys.argv[0] = 'main'; from condinst_deploy.cli.predict import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert "--score-threshold" in done.stdout, done.stderr


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="the script is made for the shell that calls")
def test_the_completion_of_the_shell_in_use_is_shown() -> None:
    code = "import sys; sys.argv[0] = 'condinst-predict'; from condinst_deploy.cli.predict import main; main()"
    command = ["/bin/bash", "-c", '"$0" -c "$1" --show-completion; exit $?', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "complete -o default -F _condinst_predict_completion condinst-predict" in done.stdout


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
@pytest.mark.parametrize(("shell", "found"), [(None, "no shell"), ("dash", "the shell dash")])
def test_completion_without_a_shell_that_has_one_is_one_line(
    option: str, shell: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect_shell() -> tuple[str, str]:
        if shell is None:
            raise shellingham.ShellDetectionFailure
        return shell, f"/bin/{shell}"

    monkeypatch.setattr(shellingham, "detect_shell", detect_shell)
    done = CliRunner().invoke(command_app(lambda: None), [option])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {option} is for bash, zsh, fish and PowerShell, and {found} started this command;"
        " run it in one of them\n"
    )
