"""Lines of progress where there is no terminal."""

import pytest

from condinst_deploy.cli.progress import ProgressLines, duration_text, progress_line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_from_time_to_time_with_rate_and_time_left(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(seconds=30, clock=clock, show=True)
    for done in range(50, 301):  # 50 were done by an earlier run
        last = lines.update("images", done, 450)
        clock.now += 0.5
    assert last == "images: 300 of 450, 2.0/s, 1 min 15 s left"
    # at 30 s: 60 images in 30 s, 340 left; at 60, 90 and 120 s again
    shown = capfd.readouterr().err.splitlines()
    assert shown == [
        "images: 110 of 450, 2.0/s, 2 min 50 s left",
        "images: 170 of 450, 2.0/s, 2 min 20 s left",
        "images: 230 of 450, 2.0/s, 1 min 50 s left",
        "images: 290 of 450, 2.0/s, 1 min 20 s left",
    ]


def test_a_terminal_has_no_lines(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(seconds=30, clock=clock, show=False)
    for done in range(5):
        lines.update("images", done, 5)
        clock.now += 100
    assert capfd.readouterr().err == ""


def test_shares_have_the_time_that_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(seconds=30, clock=clock, show=True)
    for share in (0.0, 0.1, 0.25, 0.5):
        lines.share("building", share)
        clock.now += 20
    assert capfd.readouterr().err.splitlines() == ["building: 25%, 2 min 0 s left"]


def test_a_smaller_share_begins_another_task(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(seconds=30, clock=clock, show=True)
    for share in (0.5, 1.0):
        lines.share("calibrating", share)
        clock.now += 20
    for share in (0.0, 0.5):
        lines.share("judging", share)
        clock.now += 40
    assert capfd.readouterr().err.splitlines() == ["judging: 0%", "judging: 50%, 40 s left"]


def test_stages_are_said_at_once_and_their_numbers_from_time_to_time(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = ProgressLines(seconds=30, clock=clock, show=True)
    lines.stage("exporting")
    lines.stage("calibrating: 7 of 8 classes")  # a name is text alone: numbers in it say nothing
    for done in range(3):
        clock.now += 15
        lines.update("calibrating", done, 9)
    lines.stage("comparing")
    shown = capfd.readouterr().err.splitlines()
    first, later = "calibrating: 1 of 9, 15.0 s each, 2 min 0 s left", "calibrating: 7 of 8 classes"
    assert shown == ["exporting", later, first, "comparing"]


def test_nothing_done_has_no_rate() -> None:
    assert progress_line("images", 7, 10, 0, 50) == "images: 7 of 10"
    assert progress_line("images", 8, 10, 2, 50) == "images: 8 of 10, 25.0 s each, 50 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (347, "5 min 47 s"), (3600, "1 h 0 min"), (90_000, "25 h 0 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
