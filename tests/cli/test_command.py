"""Shared parts of all commands: text is printed literally, and every failure is one line."""

import ast
import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from rich.progress import ProgressColumn
from rich.table import Table
from typer.testing import CliRunner

import condinst_deploy
from condinst_deploy.cli.command import class_names, command_app, labelled, progress_bar, results_console
from condinst_deploy.contract.manifest import label_of
from condinst_deploy.errors import ConfigError, DataError, OutputError

ROOT = Path(__file__).parents[2]
HOSTILE = "[/nope][red]a :smile:\x1b]0;t\x07\nerror: forged\u202e\ud800"
SHOWN = r"[/nope][red]a :smile:\x1b]0;t\x07\nerror: forged\u202e\ud800"


def test_texts_from_files_are_shown_in_lines_tables_and_labels(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    console = results_console()
    console.width = 200
    console.print(HOSTILE)
    console.print(table, soft_wrap=False)
    console.print(labelled("skipped:", "yellow", HOSTILE))
    lines = capsys.readouterr().out.splitlines()
    assert sum(SHOWN in line for line in lines) == 5
    assert not any(line.startswith("error:") for line in lines)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat, dog ,", ("cat", "dog")),
        ('"cup, large",plate', ("cup, large", "plate")),
        ('plate, "cup, large"', ("plate", "cup, large")),
        ('pipe 5",nail', ('pipe 5"', "nail")),  # a quote inside a name is one
        ('"12"" disc, thin"', ('12" disc, thin',)),
        ('"cup, large" , plate', ("cup, large", "plate")),
        ('" cup ","plate ", bowl ', (" cup ", "plate ", "bowl")),
        ('"a""b",c"d', ('a"b', 'c"d')),
        (None, None),
    ],
)
def test_class_names_with_a_comma_stand_in_double_quotes(text: str | None, names: tuple[str, ...] | None) -> None:
    assert class_names(text) == names


@pytest.mark.parametrize(
    "text",
    ['"cup, large', '"cup" large', ' "cup" large', pytest.param(f'{" " * 100_000}"cup', id="spaces"), " ,,", "", '""'],
)
def test_classes_that_cannot_be_read_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^--classes is '.*; expected names .* in double quotes if a name has a comma"
    ):
        class_names(text)


def test_the_error_of_an_unknown_class_lists_names_as_the_option_takes_them() -> None:
    model = ("cup, large", "plate")
    with pytest.raises(
        ConfigError, match=r"no class 'cup'; its classes are \"cup, large\", plate \(a name with a comma"
    ):
        label_of(model, "cup")
    assert class_names('"cup, large", plate') == model


@pytest.mark.parametrize(
    "names",
    [('"hot" cup', "plate"), ('5" pipe', "pipe"), ('"a", b', '"'), (' "a', "b"), (" cup ", "plate"), ("plate ", "cup")],
)
def test_the_names_in_the_message_about_an_unknown_class_are_taken_by_the_option(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        label_of(names, "nope")
    listed = str(caught.value).partition("its classes are ")[2].partition(" (a name")[0]
    assert class_names(listed) == names
    with pytest.raises(ConfigError, match=r"its classes are cat, dog$"):
        label_of(("cat", "dog"), "owl")


def test_cells_of_tables_are_whole_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "/".join(["head.tower"] * 12)
    table = Table("node", "relative")
    table.add_column("fold", overflow="fold")
    table.add_row(name, "1", name)
    results_console().print(table, soft_wrap=False)
    assert sum(line.count(name) for line in capsys.readouterr().out.splitlines()) == 2


def test_a_bar_s_description_is_shown_as_it_is() -> None:
    progress = progress_bar()
    progress.add_task(HOSTILE, total=3)
    with results_console().capture() as capture:
        pass
    assert capture.get() == ""
    (column, *_) = progress.columns
    assert isinstance(column, ProgressColumn)
    assert str(column(progress.tasks[0])) == SHOWN


@pytest.mark.parametrize("package", ["condinst_deploy", "export", "engines"])
def test_no_other_console_interprets_markup(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.name == "command.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("rich.console", "rich.markup")):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def _failing(error: BaseException) -> typer.Typer:
    def fail() -> None:
        raise error

    return command_app(fail)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError(HOSTILE), 2, f"error: {SHOWN}"),
        (DataError(HOSTILE), 1, f"error: {SHOWN}"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "error: No space left on device; check"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a\nb"), 1, r"error: a\nb: No such file; check"),
        (MemoryError(), 1, "error: the memory is not enough"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left half-written"),
        (OutputError("full"), 1, "error: full"),
    ],
)
def test_every_error_is_one_line_and_a_status(error: BaseException, status: int, line: str) -> None:
    result = CliRunner().invoke(_failing(error))
    assert result.exit_code == status
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


DEFECT = """
import threading
from condinst_deploy.cli.command import command_app

def f() -> None:
    threading.Thread(target=threading.Event().wait).start()
    raise ValueError("a defect")

command_app(f)()
"""


def test_a_defect_shows_its_traceback_and_does_not_wait_for_threads() -> None:
    command = [sys.executable, "-c", DEFECT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("\nValueError: a defect\n")
    assert done.stderr.count("a defect") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "ImportError('libtorch_cpu.so: failed to map segment\\nsecond line', name='_C', path='/lib/torch/_C.so')",
            "error: /lib/torch/_C.so cannot be loaded (libtorch_cpu.so: failed to map segment);",
        ),
        ("ImportError('numpy is broken')", "error: a library cannot be loaded (numpy is broken);"),
        ("ImportError('no such name', name='condinst_deploy.cli')", "Traceback (most recent call last):"),  # a defect
    ],
)
def test_a_library_that_cannot_be_loaded_is_one_line(error: str, line: str) -> None:
    code = f"from condinst_deploy.cli.command import command_app\ndef f() -> None: raise {error}\ncommand_app(f)()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert (done.stderr.count("\n") == 1) == line.startswith("error")


PRINTS = "from condinst_deploy.cli.command import command_app, print_line\ndef f() -> None: print_line({!r})\n"


def test_what_libraries_log_and_warn_of_is_shown_in_one_line() -> None:
    code = (
        "import logging, warnings\nfrom condinst_deploy.cli.command import command_app\n"
        f"def f() -> None: logging.getLogger('onnx_ir').warning({HOSTILE!r}); warnings.warn({HOSTILE!r})\n"
        "command_app(f)()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == [SHOWN, f"warning: {SHOWN}"]


@pytest.mark.parametrize("code", [PRINTS, PRINTS.replace("print_line", "print_json")])
def test_a_full_standard_output_is_one_line(code: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", code.format("x") + "command_app(f)()"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


OPENS = """
import os
from condinst_deploy.support.launch import run

def main():
    with open("own.txt", "wb") as stream:
        assert stream.fileno() > 2
    print("result")

run(main)
"""


@pytest.mark.parametrize(
    ("closed", "status", "out", "err"),
    [
        ((1,), 1, b"", b"error: standard output is closed; direct it to a file, or to /dev/null\n"),
        ((0, 1), 1, b"", b"error: standard output is closed; direct it to a file, or to /dev/null\n"),
        ((0, 1, 2), 1, b"", b""),
        ((0,), 0, b"result\n", b""),
        ((0, 2), 0, b"result\n", b""),
    ],
)
def test_no_file_gets_the_number_of_a_closed_standard_stream(
    closed: tuple[int, ...], status: int, out: bytes, err: bytes, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", OPENS]
    redirections = " ".join(f"{number}<&-" for number in closed)
    shell = ["bash", "-c", f'"$@" {redirections}', "bash", *command]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)
    assert (tmp_path / "own.txt").exists() == (status == 0)


@pytest.mark.parametrize("option", ["--version", "--help", "--show-completion"])
def test_a_full_standard_output_is_one_line_for_every_option(option: str) -> None:
    code = "from condinst_deploy.support.launch import command\ncommand('condinst_engines.cli.inspect')()"
    with Path("/dev/full").open("w") as full:
        # completion is made for the shell that calls, which pytest may not have
        command = ["bash", "-c", '"$@"; exit $?', "bash", sys.executable, "-c", code, option]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


NOTES = """
import logging, sys
from condinst_deploy.cli.command import command_app, print_line, terminal

def f() -> None:
    for _ in range(3):
        terminal.print("progress")
        logging.getLogger("library").warning("remark")
        print("note", file=sys.stderr, flush=True)
    print_line("result")

command_app(f)()
"""


def test_a_full_standard_error_does_not_end_the_work() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", NOTES], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "result\n")


def test_a_reader_of_standard_error_that_is_gone_does_not_end_the_work() -> None:
    process = subprocess.Popen([sys.executable, "-c", NOTES], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None
    assert process.stdout.read() == b"result\n"
    assert process.wait() == 0


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = PRINTS.format("x") + "command_app(f)()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert err == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("work", "printed"),
    [
        ("print('worked')", ""),  # libraries that look for the folder later do not start
        ("print('worked'); leave(); Path('out').mkdir()", "worked\n"),
        ("print('worked'); leave(); Path('out').resolve()", "worked\n"),
        ("print('worked'); leave(); raise ValueError('of a library that did not find it')", "worked\n"),
    ],
)
def test_a_current_folder_that_is_gone_is_one_line(work: str, printed: str, tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from condinst_deploy.cli.command import command_app\n"
        "def leave() -> None: os.rmdir(os.getcwd())\n"
        f"def f() -> None: {work}\n"
        f"{'' if printed else 'leave()'}\n"
        "command_app(f)()"
    )
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "gone",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, printed)
    assert done.stderr == "error: the current folder was deleted; change to one that exists\n"


COMMANDS = [
    "condinst_deploy.cli.batch", "condinst_deploy.cli.benchmark", "condinst_deploy.cli.client",
    "condinst_deploy.cli.doctor", "condinst_deploy.cli.evaluate", "condinst_deploy.cli.predict",
    "condinst_deploy.cli.train", "condinst_deploy.cli.triton_repo", "condinst_engines.cli.build_engine",
    "condinst_engines.cli.compare", "condinst_engines.cli.inspect", "condinst_export.cli",
]  # fmt: skip


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_has_a_version_completion_and_help_that_fits_80_columns(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main = import_module(module).main
    shown = CliRunner().invoke(main, ["--version"])
    assert (shown.exit_code, shown.output.split()[-1]) == (0, condinst_deploy.__version__)
    helped = CliRunner().invoke(main, ["--help"])
    lines = helped.output.splitlines()
    assert helped.exit_code == 0
    assert max(map(len, lines)) <= 80
    assert any("--install-completion" in line for line in lines)
    # descriptions have half of the width
    assert not [line for line in lines[lines.index("Options:") :] if line.startswith(" " * 41)]


def test_the_package_lists_its_names_before_they_are_imported() -> None:
    assert {name for name in dir(condinst_deploy) if not name.startswith("__")} == {
        name for name in condinst_deploy.__all__ if not name.startswith("__")
    }
    assert set(condinst_deploy.__all__) <= set(dir(condinst_deploy))
