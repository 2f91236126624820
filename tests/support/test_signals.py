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
    with whole_steps():
        done.append("first half")
        os.kill(os.getpid(), signal.SIGINT)
        done.append("second half")


def test_in_another_thread_a_step_is_a_plain_block() -> None:
    done: list[str] = []

    def step() -> None:
        with whole_steps():
            done.append("step")

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert done == ["step"]
