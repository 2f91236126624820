"""Ctrl-C waits for the end of a step."""

import os
import signal
import threading

import pytest

from condinst_deploy.support.signals import whole_steps


def test_ctrl_c_in_the_middle_of_a_step_takes_effect_after_it() -> None:
    done: list[str] = []
    before = signal.getsignal(signal.SIGINT)  # a shell that runs things in the background has it ignored
    with pytest.raises(KeyboardInterrupt):
        one_step_with_ctrl_c(done)
    assert done == ["first half", "second half"]
    assert signal.getsignal(signal.SIGINT) is before


def one_step_with_ctrl_c(done: list[str]) -> None:
    with whole_steps() as interruption:
        done.append("first half")
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.wanted  # a long step can stop early
        done.append("second half")


def test_without_ctrl_c_the_handler_is_put_back_and_nothing_is_raised() -> None:
    before = signal.getsignal(signal.SIGINT)
    with whole_steps() as interruption:
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert not interruption.wanted


def test_in_another_thread_a_step_is_a_plain_block() -> None:
    done: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def step() -> None:
        with whole_steps():
            assert signal.getsignal(signal.SIGINT) is before
            done.append("step")

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert done == ["step"]
