"""The first minutes on a machine with an NVIDIA GPU: what is there, what passes, how fast it is.

    make gpu-first                     # or: python3 benchmarks/gpu_first.py --out build/gpu-first.zip
    make gpu-first STEPS=tests         # where a command may take ten minutes only: first this,
    make gpu-first STEPS=benchmark     # then this

It needs nothing but the Python at hand and no network. Each step runs in a process of its own and keeps its output, so
a step that fails, hangs or is missing a library loses nothing of the others. The one file with all results is written
anew while steps run, so that it has what is done if the time here ends; it lies in the folder that the variable OUT
names, where there is one. At the end there is a table. The exit status is 0 if every step passed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]

NEEDED = {
    "the package": ("numpy", "pillow", "simplejpeg", "msgspec", "typer", "rich"),
    "what typer and rich need": ("annotated-doc", "markdown-it-py", "mdurl", "pygments", "shellingham"),
    "what typer needs of pydantic": ("pydantic", "pydantic_core", "annotated-types", "typing-inspection"),
    "engines": ("cuda-bindings", "cuda-pathfinder"),
    "the torch backend, kernels": ("torch", "torchvision", "triton"),
    "tests": ("pytest", "iniconfig", "pluggy", "packaging", "pytest-timeout", "hypothesis", "sortedcontainers"),
    "export": (
        "onnx",
        "protobuf",
        "ml_dtypes",
        "onnxscript",
        "onnx-ir",
        "onnx_graphsurgeon",
        "typing_extensions",
        "sympy",
        "mpmath",
    ),
    "ONNX Runtime": ("onnxruntime-gpu", "flatbuffers"),
    "evaluation": ("pycocotools", "faster-coco-eval", "jinja2", "markupsafe"),
}
"""Libraries and their use, all that they need included; engines also need `tensorrt` or `tensorrt-rtx`."""

TESTS = ("tests/kernels", "tests/runtime", "tests/engines/test_full_tensorrt.py")
TEST_SECONDS, BENCHMARK_SECONDS = 420, 570

LONGEST_TEST = 150
"""Seconds; a test that hangs must not cost the others."""

SECONDS_BETWEEN_RECORDS = 10.0


@dataclass
class Step:
    """A step and how it ended."""

    name: str
    state: str  # passed, failed, or not run
    detail: str
    seconds: float = 0.0


def missing_packages() -> list[str]:
    """Packages that are not installed, pinned as `constraints.txt` has them."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, equals, pin = line.partition("==")
        if equals:
            pins[normal(name)] = pin.strip()
    absent = [name for names in NEEDED.values() for name in names if not installed(name)]
    return [f"{name}=={pins[normal(name)]}" if normal(name) in pins else name for name in absent]


def installed(name: str) -> bool:
    """True if a distribution of this name is there."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def look(folder: Path) -> Step:
    """Machine, driver, GPU and libraries."""
    found: dict[str, object] = {"python": sys.version, "machine": platform.platform(), "cores": os.cpu_count()}
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        query = "--query-gpu=name,compute_cap,memory.total,driver_version,pcie.link.gen.max,pcie.link.width.max"
        found["gpus"] = output([tool, query, "--format=csv,noheader"]).splitlines()
        found["nvidia-smi"] = output([tool])
    names = sorted({name for names in NEEDED.values() for name in names} | {"tensorrt", "tensorrt-rtx", "onnxruntime"})
    found["versions"] = {name: version(name) for name in names if installed(name)}
    found["commit"] = output(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip()
    (folder / "machine.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    gpus = found.get("gpus")
    if not gpus:
        return Step("GPU", "failed", "nvidia-smi is not there, or lists no GPU")
    return Step("GPU", "passed", "; ".join(map(str, gpus)) if isinstance(gpus, list) else str(gpus))


def output(command: list[str]) -> str:
    """Return the output of a command; empty if it cannot be run, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def wheels(folder: Path) -> Step:
    """Write the list of packages to bring to this machine."""
    absent = missing_packages()
    (folder / "wheels-to-carry.txt").write_text("".join(f"{name}\n" for name in absent), encoding="utf-8")
    if not absent:
        return Step("libraries", "passed", "all are there")
    tags = f"{sys.version_info.major}.{sys.version_info.minor}"
    advice = f"pip download --only-binary=:all: --no-deps --python-version {tags} -r wheels-to-carry.txt"
    return Step("libraries", "failed", f"carry {', '.join(absent)} ({advice})")


def run(
    command: list[str], log: Path, seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> tuple[int | None, float]:
    """Status and seconds of a command of the repository; None: it took too long, and was ended with its children."""
    paths = [str(ROOT / part) for part in ("", "export", "engines")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    begun = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        while time.monotonic() - begun < seconds:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(min(SECONDS_BETWEEN_RECORDS, seconds))
                return status, time.monotonic() - begun
            meanwhile()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return None, time.monotonic() - begun


def doctor(folder: Path, meanwhile: Callable[[], None]) -> Step:
    """Run condinst-doctor and keep its report."""
    log = folder / "doctor.json"
    code = "from condinst_deploy.commands import doctor; doctor()"
    status, seconds = run([sys.executable, "-c", code, "--json"], log, 120, meanwhile)
    return Step("condinst-doctor", "passed" if status == 0 else "failed", findings(log), seconds)


def findings(report: Path) -> str:
    """What condinst-doctor found wrong or missing; its last line where it is no report."""
    try:
        checks = json.loads(report.read_text(encoding="utf-8", errors="replace"))["machine"]
        found = [f"{check['name']}: {check['found']}" for check in checks if check["status"] != "ok"]
    except (ValueError, KeyError, TypeError):
        return last_line(report)
    return "; ".join(found) or "all is well"


def tests(folder: Path, meanwhile: Callable[[], None]) -> Step:
    """`pytest -m "gpu or tensorrt"`; the log names each test before it runs."""
    report, log = folder / "tests.xml", folder / "tests.log"
    # without the strictness of pyproject.toml: settings of a plug-in that lacks must not end the run
    options = ["-o", "addopts=", "--import-mode=importlib", "-ra", "-v", f"--junitxml={report}"]
    if installed("pytest-timeout"):
        options.append(f"--timeout={LONGEST_TEST}")
    command = [sys.executable, "-m", "pytest", "-m", "gpu or tensorrt", *options, *TESTS]
    status, seconds = run(command, log, TEST_SECONDS, meanwhile)
    if not report.exists():
        return Step("pytest -m gpu", "failed", last_line(log), seconds)
    found = counts(report)  # where PyTorch does not see the GPU, all tests are skipped, and pytest's status is 0
    passed = status == 0 and not found.startswith("0 passed")
    return Step("pytest -m gpu", "passed" if passed else "failed", found, seconds)


def counts(report: Path) -> str:
    """Numbers of tests by their ends."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    numbers = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    passed = 2 * numbers["tests"] - sum(numbers.values())
    return f"{passed} passed, " + ", ".join(f"{numbers[name]} {name}" for name in ("failures", "errors", "skipped"))


def benchmark(folder: Path, meanwhile: Callable[[], None]) -> Step:
    """`python -m benchmarks.gpu`."""
    results, log = folder / "gpu.json", folder / "gpu.log"
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(results)]
    status, seconds = run(command, log, BENCHMARK_SECONDS, meanwhile)
    if not results.exists():
        return Step("benchmarks.gpu", "failed", last_line(log), seconds)
    content = json.loads(results.read_text(encoding="utf-8"))
    targets = content["targets"]
    met = sum(target["met"] is True for target in targets)
    missed = [target["name"] for target in targets if target["met"] is False]
    detail = (
        f"{met} of {met + len(missed)} targets met; not measured: {', '.join(content['not_measured']) or 'nothing'}"
    )
    state = "passed" if status == 0 and not missed else "failed"
    return Step("benchmarks.gpu", state, f"{detail}; missed: {', '.join(missed)}" if missed else detail, seconds)


def last_line(log: Path) -> str:
    """The last words of a step."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def table(steps: list[Step]) -> str:
    """One line for each step."""
    return "\n".join(f"{step.name:16} {step.state:8} {step.seconds:6.0f} s  {step.detail}" for step in steps)


def record(steps: list[Step], folder: Path, out: Path) -> None:
    """Write the steps so far, and everything in one file."""
    (folder / "steps.json").write_text(json.dumps([asdict(each) for each in steps], indent=1), encoding="utf-8")
    (folder / "table.txt").write_text(table(steps) + "\n", encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_suffix(".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    shutil.move(unfinished, out)


STEPS = {
    "doctor": ("condinst-doctor", doctor),
    "tests": ("pytest -m gpu", tests),
    "benchmark": ("benchmarks.gpu", benchmark),
}


def default_out(chosen: list[str]) -> Path:
    """The file to bring back; a run of some steps does not replace that of others."""
    name = "gpu-first" if set(chosen) == set(STEPS) else "gpu-first-" + "-".join(chosen)
    return Path(os.environ.get("OUT") or ROOT / "build") / f"{name}.zip"


def main() -> int:
    """Run the steps, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the file to bring back")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="beside what is there")
    arguments = parser.parse_args()
    out: Path = arguments.out or default_out(arguments.steps)
    with tempfile.TemporaryDirectory(prefix="gpu-first-") as name:
        folder = Path(name)
        steps = [look(folder), wheels(folder)]
        for name, step in (STEPS[each] for each in arguments.steps):
            if steps[0].state == "failed" and step is not doctor:
                steps.append(Step(name, "not run", "there is no GPU"))
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            unfinished = [*steps, Step(name, "not run", "the time ended while it ran")]
            steps.append(step(folder, partial(record, unfinished, folder, out)))
            record(steps, folder, out)  # after each step: the time here may end at any moment
        record(steps, folder, out)
    print(table(steps))
    print(f"bring back {out}")
    return 0 if all(step.state == "passed" for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
