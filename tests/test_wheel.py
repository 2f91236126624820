"""The wheel as a stranger gets it: built from a clean copy, installed in another environment, run elsewhere."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"])
# package -> the folder that holds it
PACKAGES = {"condinst_deploy": ".", "condinst_export": "export", "condinst_engines": "engines"}


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COV_"))
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a clone: without those that git ignores, and without old builds."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("the list of files comes from git, and this is not a clone")
    folder = tmp_path_factory.mktemp("clone")
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file():  # a deleted file is listed until the deletion is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clean_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=clean_copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that holds the wheel and borrows this one's dependencies."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # folders named in a .pth file come after the environment's own, and their .pth files are not read:
    # this environment's editable install of the repository stays out
    borrowed = [entry for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}]
    (site_packages(folder) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


def site_packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python*/site-packages")
    return folder


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(clean_copy: Path, wheel: Path) -> None:
    expected = {
        path.relative_to(clean_copy / parent).as_posix()
        for package, parent in PACKAGES.items()
        for path in (clean_copy / parent / package).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info" not in PurePosixPath(name).parts[0]}
    assert files == expected
    assert {f"{package}/__init__.py" for package in PACKAGES} <= files
    assert {f"{package}/py.typed" for package in PACKAGES} <= files


def test_packages_come_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = f"import {', '.join(PACKAGES)}\nfor m in ({', '.join(PACKAGES)}): print(m.__file__)"
    files = run(environment / "bin/python", "-c", code, cwd=tmp_path).split()
    assert [Path(file).parent for file in files] == [site_packages(environment) / package for package in PACKAGES]


def test_version_is_the_packages_own(environment: Path, tmp_path: Path) -> None:
    code = "import condinst_deploy as c, importlib.metadata as m; print(c.__version__, m.version('condinst-deploy'))"
    own, recorded = run(environment / "bin/python", "-c", code, cwd=tmp_path).split()
    assert own == recorded


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_command(script: str, environment: Path, tmp_path: Path) -> None:
    assert "Usage" in run(environment / "bin" / script, "--help", cwd=tmp_path)
