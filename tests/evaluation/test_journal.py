"""The journal: what was finished stays, what was not whole goes, and nothing else is taken for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.evaluation.journal import Image, Journal
from condinst_deploy.support.folder_lock import locked_folder

IDS = [5, 3, 9, 2, 7]
IMAGES = [(image_id, f"state {image_id}") for image_id in IDS]


def journal(folder: Path, window: int = 1, images: Sequence[Image] = IMAGES, **settings: Any) -> Journal:
    return Journal(folder, "model.onnx", {"model": "a"} | settings, images, window)


def entries(image_id: int) -> list[dict[str, Any]]:
    return [{"image_id": image_id, "score": 0.1 + 0.2}, {"image_id": image_id, "score": 1 / 3}][: image_id % 3]


def fill(folder: Path, count: int, window: int = 1, images: Sequence[Image] = IMAGES) -> Path:
    with journal(folder, window, images) as opened:
        for image_id in IDS[opened.finished : count]:
            opened.add(image_id, entries(image_id))
        return opened.path


def test_a_new_journal_is_empty_and_a_filled_one_goes_on(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        assert (first.finished, list(first.entries())) == (0, [])
    fill(tmp_path, 3)
    with journal(tmp_path) as second:
        assert second.finished == 3
        assert list(second.entries()) == [entry for i in IDS[:3] for entry in entries(i)]
    fill(tmp_path, 5)
    with journal(tmp_path) as third:
        assert third.finished == 5
        assert list(third.entries()) == [entry for i in IDS for entry in entries(i)]


def test_whatever_is_cut_off_anywhere_the_finished_images_stay(tmp_path: Path) -> None:
    path = fill(tmp_path, 4)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with journal(tmp_path) as opened:
            assert opened.finished == max(0, sum(end <= length for end in ends) - 1)
        fill(tmp_path, 4)
        assert path.read_bytes() == whole


def test_a_window_that_is_not_whole_is_run_again(tmp_path: Path) -> None:
    fill(tmp_path, 3, window=2)
    with journal(tmp_path, window=2) as opened:
        assert opened.finished == 2
    fill(tmp_path, 5, window=2)
    with journal(tmp_path, window=2) as opened:
        assert opened.finished == 5  # the last window is short, but all of it


@pytest.mark.parametrize("damage", [b"{", b"[]\n", b'{"image_id":99,"results":[]}\n', b"\xff\xfe\n"])
def test_a_damaged_line_ends_what_is_believed(damage: bytes, tmp_path: Path) -> None:
    path = fill(tmp_path, 2)
    good = path.read_bytes()
    path.write_bytes(good + damage + b'{"image_id":2,"results":[]}\n')
    with journal(tmp_path) as opened:
        assert opened.finished == 2
    assert path.read_bytes() == good


def test_other_settings_have_a_journal_of_their_own(tmp_path: Path) -> None:
    first = fill(tmp_path, 2)
    with journal(tmp_path, batch_size=4) as other:
        assert other.finished == 0
        assert other.path != first
    assert first.name.startswith("model.onnx.")
    with journal(tmp_path) as again:
        assert again.finished == 2


@pytest.mark.parametrize(("window", "kept"), [(1, 3), (2, 2)])
def test_a_run_over_more_images_takes_over_whole_windows_of_a_shorter_one(
    window: int, kept: int, tmp_path: Path
) -> None:
    shorter = fill(tmp_path, 3, window, IMAGES[:3])
    before = shorter.read_bytes()
    with journal(tmp_path, window) as opened:
        assert opened.finished == kept
        assert list(opened.entries()) == [entry for i in IDS[:kept] for entry in entries(i)]
        assert opened.path != shorter
    assert shorter.read_bytes() == before
    assert fill(tmp_path, 5, window).read_bytes() == fill(tmp_path / "alone", 5, window).read_bytes()


def test_a_run_over_fewer_images_takes_over_from_a_longer_one_and_leaves_it_whole(tmp_path: Path) -> None:
    longer = fill(tmp_path, 5, window=2)
    before = longer.read_bytes()
    with journal(tmp_path, 2, IMAGES[:3]) as opened:
        assert opened.finished == 2
    assert longer.read_bytes() == before


def test_of_several_runs_the_one_that_got_furthest_is_taken_over(tmp_path: Path) -> None:
    for count in (1, 3, 2):
        fill(tmp_path, count, images=IMAGES[:count])
    with journal(tmp_path) as opened:
        assert opened.finished == 3


def test_nothing_is_taken_over_where_an_image_or_a_setting_is_another_one(tmp_path: Path) -> None:
    fill(tmp_path, 3, images=IMAGES[:3])
    with journal(tmp_path, images=[IMAGES[0], (IDS[1], "replaced"), *IMAGES[2:]]) as opened:
        assert opened.finished == 1
    with journal(tmp_path, batch_size=4) as opened:
        assert opened.finished == 0
    with Journal(tmp_path, "model.onnx", {"model": "a"}, IMAGES, 1, fresh=True) as opened:
        assert opened.finished == 0


def test_a_file_of_the_same_name_with_another_head_is_begun_anew(tmp_path: Path) -> None:
    path = fill(tmp_path, 2)
    path.write_bytes(b"{}\n" + path.read_bytes().split(b"\n", 1)[1])
    with journal(tmp_path) as opened:
        assert opened.finished == 0


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    with journal(tmp_path), pytest.raises(ConfigError, match=r"another process is writing .*name another folder"):
        journal(tmp_path)
    journal(tmp_path).close()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another place with --out"):
        journal(tmp_path / "file")


def test_a_folder_that_is_gone_is_an_error_at_the_next_image(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "run"), journal(tmp_path / "run" / "journals") as opened:
        opened.add(IDS[0], [])
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(OutputError, match="run was removed, renamed or replaced"):
            opened.add(IDS[1], [])
    assert not (tmp_path / "run").exists()
