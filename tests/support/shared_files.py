"""Files that are made once for a whole test run, also where several test processes run side by side."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from condinst_deploy.model.checkpoints import save_model
from tests.support.exports import exported
from tests.support.models import SLIM_KINDS, manifest_of, seeded_model


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that is filled once for all processes of a test run.

    The first process that asks for the folder fills it; the others wait until it is complete. Tests only read it.

    Args:
        factory: pytest's fixture; its folder of the run holds the shared one.
        name: name of the folder, unique in the run.
        make: writes the files into an empty folder. If it fails, the next process tries again.
    """
    base = factory.getbasetemp()
    # each process of xdist has its own folder in the folder of the run
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = run / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            lock.write("complete")
    return folder


def slim_model(factory: pytest.TempPathFactory, kind: str) -> Path:
    """Return the checkpoint of a kind of `SLIM_KINDS`."""

    def save(folder: Path) -> None:
        save_model(folder / "slim.pth", seeded_model(SLIM_KINDS[kind]), manifest_of(SLIM_KINDS[kind]))

    return made_once(factory, f"{kind} checkpoint", save) / "slim.pth"


def exported_slim_model(factory: pytest.TempPathFactory, kind: str) -> Path:
    """Return the exported file of a kind of `SLIM_KINDS`, with dynamic shapes."""
    checkpoint = slim_model(factory, kind)
    return (
        made_once(factory, f"{kind} exported", lambda folder: exported(checkpoint, folder / "slim.onnx")) / "slim.onnx"
    )
