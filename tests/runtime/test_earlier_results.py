"""Images that lie where a run writes its own, and folders of earlier results in odd states."""

import os
from pathlib import Path

import pytest

from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.earlier_results import EarlierFiles, without_results


@pytest.mark.parametrize(
    "form", ["{0}/out/overlays/a.png", "{0}/out//overlays/./a.png", "file://{0}/out/overlays/a.png"]
)
def test_an_image_that_is_named_itself_is_refused_in_whatever_form_it_is_named(form: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "overlays").mkdir(parents=True)
    named = form.format(tmp_path)
    found = [tmp_path / "out" / "overlays" / "a.png", tmp_path / "b.png"]
    with pytest.raises(ConfigError, match=r"a\.png is to be read, and this run writes its own files into"):
        without_results(found, [named, str(found[1])], tmp_path / "out")
    assert without_results(found, [str(tmp_path)], tmp_path / "out") == ([found[1]], [found[0]])


def test_an_image_named_from_the_current_folder_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is to be read"):
        without_results([Path("out/crops/a.png"), Path("b.png")], ["./out/crops/a.png", "b.png"], Path("out"))


def test_a_folder_for_writing_alone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "overlays").mkdir()
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "a.png").touch()
    listed = os.scandir

    def refused(path: Path) -> object:
        if path.name == "overlays":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = EarlierFiles(tmp_path, ())
    found.replaced(tmp_path / "overlays" / "b.jpg")
    assert str(found) == f"1 file in {tmp_path / 'crops'} (a.png)"
