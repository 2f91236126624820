"""A GPU's benchmark goes on behind parts that break the GPU, crash, hang or find no time."""

import json
import sys
from pathlib import Path

from benchmarks import gpu_processes
from tests.support.interpreter import ROOT

PROCESS = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from benchmarks.gpu_processes import read, write
from pathlib import Path
out = Path({out!r})
names = sys.argv[sys.argv.index("--only") + 1 :]
minutes = float(sys.argv[sys.argv.index("--minutes") + 1])
for name in names:
    state = read(out)
    state["running"] = name
    write(out, state)
    if name == "crash":
        os.abort()
    if name == "hang":
        time.sleep(600)
    if name == "broken":
        state["not_measured"][name] = "CUDA error"
    else:
        state["parts"][name] = {{"minutes": minutes, "process": os.getpid()}}
    state["running"] = None
    write(out, state)
    if name == "broken":
        sys.exit(4)
"""


def test_parts_go_on_in_a_new_process_behind_a_crash_a_hang_and_a_broken_gpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-c", PROCESS.format(root=str(ROOT), out=str(out))]
    parts = dict.fromkeys(("one", "crash", "two", "hang", "broken", "three"), 0.0)
    gpu_processes.measured_in_processes(command, out, parts, 300, start=5)
    state = json.loads(out.read_text())
    assert list(state["parts"]) == ["one", "two", "three"]
    assert len({each["process"] for each in state["parts"].values()}) == 3
    assert all(0 < each["minutes"] <= 5 for each in state["parts"].values())
    assert state["not_measured"]["crash"] == "its process ended with status -6"
    assert state["not_measured"]["hang"].startswith("it was ended after")
    assert state["not_measured"]["broken"] == "CUDA error"
    assert state["running"] is None


def test_a_process_that_cannot_start_is_started_once(tmp_path: Path) -> None:
    out, log = tmp_path / "gpu.json", tmp_path / "log"
    command = [sys.executable, "-c", f"open({str(log)!r}, 'a').write('x'); raise SystemExit(7)"]
    gpu_processes.measured_in_processes(command, out, {"a": 1.0, "b": 1.0}, 300)
    assert log.read_text() == "x"
    assert json.loads(out.read_text())["not_measured"] == dict.fromkeys("ab", "its process ended with status 7")


def test_without_time_no_process_is_started(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu_processes.measured_in_processes(["a command that is not there"], out, {"a": 1.0}, 0)
    assert json.loads(out.read_text())["not_measured"] == {"a": "no time was left"}
