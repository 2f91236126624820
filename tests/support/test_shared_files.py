"""A folder of a test run is filled once, by one of the processes that ask for it."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.shared_files import made_once


class Factory:
    """Stands for pytest's factory of a process with a folder of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def getbasetemp(self) -> Path:
        return self.base


def _fill(folder: Path) -> None:
    with (folder.parent / "fillings").open("a") as log:
        log.write("filled\n")
    time.sleep(0.05)  # so that the others ask meanwhile
    (folder / "file").write_text("content")


def test_of_several_processes_one_fills_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for processes: each opens the lock itself."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")

    def ask(number: int) -> str:
        own = tmp_path / str(number)
        own.mkdir()
        return (made_once(Factory(own), "kind", _fill) / "file").read_text()  # type: ignore[arg-type]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == ["content"] * 4
    assert (tmp_path / "shared" / "fillings").read_text() == "filled\n"


def test_a_folder_that_could_not_be_filled_is_filled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    factory: pytest.TempPathFactory = Factory(tmp_path)  # type: ignore[assignment]

    def fail(folder: Path) -> None:
        (folder / "half").write_text("of it")
        raise ValueError("no space")

    with pytest.raises(ValueError, match="no space"):
        made_once(factory, "kind", fail)
    folder = made_once(factory, "kind", _fill)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert made_once(factory, "kind", fail) == folder
