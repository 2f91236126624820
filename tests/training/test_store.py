"""Checkpoints of a run: the last ones are kept, and a damaged one falls back to the one before."""

from pathlib import Path

import pytest
import torch

from condinst_deploy.errors import CheckpointError, OutputError
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.training.store import CheckpointStore


def saving(iteration: int) -> dict[str, object]:
    return {"training": {"iteration": iteration}, "weights": torch.full((1000,), float(iteration))}


def add(store: CheckpointStore, iteration: int) -> None:
    store.add(lambda path: torch.save(saving(iteration), path))


def iterations(folder: Path) -> dict[str, int]:
    return {path.name: torch.load(path)["training"]["iteration"] for path in folder.glob("*.pth")}


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for iteration in range(1, 6):
        add(store, iteration)
    assert iterations(tmp_path) == {"last.pth": 5, "last-1.pth": 4, "last-2.pth": 3}
    assert store.newest()[:2] == (tmp_path / "last.pth", "")


def test_one_checkpoint_is_replaced_where_one_is_wanted(tmp_path: Path) -> None:
    for iteration in (1, 2):
        add(CheckpointStore(tmp_path, keep=1), iteration)
    assert iterations(tmp_path) == {"last.pth": 2}


def test_best_models_that_are_kept_do_not_replace_each_other(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    assert store.keep_best() is None
    for number in (1, 2, 3):
        (tmp_path / "best.pth").write_text(f"{number}")
        kept = store.keep_best()
        assert kept is not None
        assert kept.read_text() == f"{number}"
    names = ["best-earlier-2.pth", "best-earlier-3.pth", "best-earlier.pth"]
    assert [(path.name, path.read_text()) for path in sorted(tmp_path.iterdir())] == list(
        zip(names, "231", strict=True)
    )


def test_a_checkpoint_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    add(store, 1)

    def full(path: Path) -> None:
        raise OutputError(f"{path} cannot be written (No space left on device)")

    with pytest.raises(OutputError):
        store.add(full)
    assert iterations(tmp_path) == {"last.pth": 1}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(damage: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    add(store, 1)
    add(store, 2)
    path = tmp_path / "last.pth"
    content = bytearray(path.read_bytes())
    place = content.index(torch.tensor(2.0).numpy().tobytes() * 4)
    content[place] ^= 1  # a bit of a weight, which PyTorch would read without a word
    path.write_bytes({"cut": bytes(content[: len(content) // 2]), "flipped": bytes(content), "empty": b""}[damage])
    found = store.newest()
    assert found.path == tmp_path / "last-1.pth"
    assert "last.pth" in found.note
    assert "going on from last-1.pth" in found.note
    store.set_aside(found.damaged)
    add(store, 3)
    assert (store.newest()[:2], store.newest().damaged) == ((path, ""), ())
    (tmp_path / "damaged.pth").unlink()
    assert iterations(tmp_path) == {"last.pth": 3, "last-1.pth": 1}


def test_what_was_complete_when_the_process_was_killed_is_found(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    add(store, 1)
    (tmp_path / "last.pth").rename(tmp_path / "last-1.pth")
    torch.save(saving(2), tmp_path / "next.pth")
    assert store.newest()[:2] == (tmp_path / "next.pth", "")


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*last\.pth"):
        CheckpointStore(tmp_path, keep=2).newest()


def test_a_process_that_lost_the_first_one_writes_only_what_is_missing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    add(store, 4)
    with locked_folder(tmp_path):  # by the first process, which lives
        store.add_alone(lambda path: torch.save(saving(9), path), 9)
    assert iterations(tmp_path) == {"last.pth": 4}
    for _ in range(2):  # two others
        store.add_alone(lambda path: torch.save(saving(9), path), 9)
    assert iterations(tmp_path) == {"last.pth": 9, "last-1.pth": 4}
