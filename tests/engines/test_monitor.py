"""Progress from a builder's reports, and Ctrl-C."""

import signal
import threading

import pytest

from condinst_engines.monitor import Interruption, Phases


def test_the_share_counts_phases_inside_phases_and_never_falls() -> None:
    seen: list[tuple[float, str]] = []
    phases = Phases(lambda share, phase: seen.append((share, phase)))
    phases.start("build", None, 2)
    phases.start("parse", "build", 4)
    phases.step("parse", 1)
    assert seen[-1] == (0.25, "parse")
    phases.step("parse", 3)
    phases.finish("parse")
    phases.step("build", 0)
    assert seen[-1] == (0.5, "build")
    phases.start("time", "build", 1)
    phases.step("time", 0)
    phases.finish("time")
    phases.step("build", 1)
    phases.finish("build")
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert seen[-1] == (1.0, "")


def test_reports_out_of_order_do_no_harm() -> None:
    phases = Phases(lambda share, phase: None)
    phases.step("unknown", 3)
    phases.finish("unknown")
    phases.start("empty", None, 0)
    phases.step("empty", 5)


def interrupt_while_listening(interruption: Interruption) -> None:
    with interruption.listening():
        signal.raise_signal(signal.SIGINT)
        assert interruption.wanted  # noted, and nothing is torn down yet


def test_ctrl_c_becomes_an_exception_only_after_the_block() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupt_while_listening(Interruption())
    assert signal.getsignal(signal.SIGINT) is before


def test_without_ctrl_c_nothing_happens() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption().listening():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    failures: list[BaseException] = []

    def listen() -> None:
        try:
            with Interruption().listening():
                pass
        except BaseException as e:
            failures.append(e)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert failures == []
