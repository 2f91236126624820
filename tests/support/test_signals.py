"""Signals wait for the end of a step, end a command in one line, and end it at once when there are two."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from condinst_deploy.support.signals import Stopped, exit_status, whole_steps

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("ctrl_c_interrupts")


def test_ctrl_c_in_the_middle_of_a_step_takes_effect_after_it() -> None:
    done: list[str] = []
    before = signal.getsignal(signal.SIGINT)
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


def test_a_signal_that_is_ignored_stays_ignored_in_a_step() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with whole_steps() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
    assert not interruption.wanted
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


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


def test_the_status_is_the_shell_s() -> None:
    assert exit_status(Stopped(signal.SIGINT)) == 130
    assert exit_status(Stopped(signal.SIGTERM)) == 143
    assert exit_status(KeyboardInterrupt()) == 130


BODIES = {
    "sleeps": "import time\ndef main(): print('ready', flush=True); time.sleep(100)",
    "has a step": (
        "import time\nfrom condinst_deploy.support.signals import whole_steps\n"
        "def main():\n    with whole_steps() as asked:\n        print('ready', flush=True)\n"
        "        while not asked.wanted: time.sleep(0.01)\n        print('whole', flush=True)\n    time.sleep(100)"
    ),
    "is inside a library": (
        # a network that looks for its end between two nodes, as ONNX Runtime does
        "import ctypes\nfrom condinst_deploy.support.signals import cancellable\n"
        "def main():\n    libc = ctypes.CDLL(None)\n    left = [True]\n"
        "    with cancellable(lambda: left.clear()):\n        print('ready', flush=True)\n"
        "        while left: libc.usleep(20000)\n"
        "    import time; time.sleep(100)"
    ),
    "starts a network in a long step": (
        # longer than a network may run on after a signal; it needs a moment to stop
        "import time\nfrom condinst_deploy.support.signals import PATIENCE, cancellable, whole_steps\n"
        "def main():\n    with whole_steps():\n        print('ready', flush=True)\n        time.sleep(PATIENCE + 1)\n"
        "        with cancellable(lambda: None): time.sleep(1)\n        print('whole', flush=True)"
    ),
    "lets a library hear SIGTERM": (
        # which ends the process, as Ray does
        "import signal, sys, time\nfrom condinst_deploy.support.signals import kept_sigterm, received\n"
        "def end(*_):\n    while received() is None: time.sleep(0.01)\n    sys.exit(1)\n"
        "def main():\n    with kept_sigterm():\n        signal.signal(signal.SIGTERM, end)\n"
        "        print('ready', flush=True)\n        time.sleep(100)"
    ),
    "does not let itself be stopped": (
        "import time\ndef main():\n    words = ['ready']\n    while True:\n        try:\n"
        "            while words: print(words.pop(), flush=True)\n            time.sleep(100)\n"
        "        except KeyboardInterrupt: pass"
    ),
    "makes an import fail": (
        # which extension modules do when Python code that they call is interrupted
        "import time\ndef main():\n    print('ready', flush=True)\n    try: time.sleep(100)\n"
        "    except KeyboardInterrupt as e: raise ImportError('initialization failed') from e"
    ),
    "makes a library missing": (
        "import time\nfrom condinst_deploy.cli.command import command_app\n"
        "from condinst_deploy.errors import BackendError\ndef f() -> None:\n    print('ready', flush=True)\n"
        "    try: time.sleep(100)\n    except KeyboardInterrupt as e: error = ImportError('failed', name='onnx')\n"
        "    raise BackendError('the library is not installed') from error\nmain = command_app(f)"
    ),
    "ends slowly": (
        "import atexit, time\natexit.register(time.sleep, 100)\ndef main(): print('ready', flush=True); time.sleep(100)"
    ),
    "imports": "print('ready', flush=True)\nimport time\ntime.sleep(100)",
    "drops it in a callback": (
        "import time, weakref\nfrom condinst_deploy.support.signals import received\nclass Thing: pass\n"
        "def wait(_):\n    print('ready', flush=True)\n    while received() is None: pass\n    time.sleep(1)\n"
        "def main():\n    thing = Thing()\n    kept = weakref.ref(thing, wait)\n    del thing\n    time.sleep(100)"
    ),
    "is in the import system": (
        # where an exception between two lines leaves the lock held that all threads need to import
        "import importlib._bootstrap, threading\ndef main():\n    try:\n        print('ready', flush=True)\n"
        "        while True: importlib._bootstrap._get_module_lock('nothing')\n    finally:\n"
        "        other = threading.Thread(target=__import__, args=('colorsys',), daemon=True)\n"
        "        other.start()\n        other.join(30)\n"
        "        print('held' if other.is_alive() else 'free', flush=True)"
    ),
    "forks": (
        "import os, time\ndef main():\n    there, here = os.pipe()\n    child = os.fork()\n"
        "    if child == 0:\n        os.write(here, b'x')\n        time.sleep(100)\n"
        "    os.read(there, 1)\n    print('ready', flush=True)\n    os.waitpid(child, 0)\n    time.sleep(100)"
    ),
}


def started(body: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "body.py").write_text(BODIES[body] + "\n")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from condinst_deploy.support.launch import command; command('body')()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "body",
    [
        "sleeps",
        "has a step",
        "is inside a library",
        "imports",
        "lets a library hear SIGTERM",
        "makes an import fail",
        "makes a library missing",
        "ends slowly",
        "drops it in a callback",
        "is in the import system",
    ],
)
def test_a_signal_is_one_line_and_its_status(body: str, number: signal.Signals, tmp_path: Path) -> None:
    process = started(body, tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == ("interrupted; nothing was left half-written\n" if "library missing" in body else "interrupted\n")
    assert out == {"has a step": "whole\n", "is in the import system": "free\n"}.get(body, "")


@pytest.mark.slow
def test_a_network_that_starts_long_after_a_signal_has_time_to_stop(tmp_path: Path) -> None:
    process = started("starts a network in a long step", tmp_path)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "whole\n", "interrupted\n")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = started("does not let itself be stopped", tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(2)  # longer than signals count as one, on a busy machine, too
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.strip() == "ended at once; what was not finished is lost"


def test_a_second_signal_does_not_change_the_status(tmp_path: Path) -> None:
    process = started("ends slowly", tmp_path)
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "interrupted\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_signals_of_a_whole_group_count_once(tmp_path: Path) -> None:
    process = started("forks", tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "interrupted\n"
