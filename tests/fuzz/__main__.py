"""Fuzz every reader of files: `python -m tests.fuzz --inputs 20000 --corpus DIR`.

Seeded strategies make damaged files of each kind. A separate process uses them as a user would; it may take 3 GB and
30 seconds of processor time for one. Inputs that cause a fault are kept in the corpus, which is tried first next time.
The counts are printed as a table; the status is 1 if there was a fault.
"""

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.inputs import KINDS, SHARES, Base, Files, base_files

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
"""Processor time for one input; four times as long on the clock, because other processes run, too."""


class Child:
    """The process that uses inputs; it is started again after it died."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.process: subprocess.Popen[str] | None = None

    def use(self, kind: str, folder: Path) -> dict[str, Any]:
        """Return the outcome of an input."""
        process = self.process or self._start()
        pipe, answers = _pipes(process)
        began, cpu = time.monotonic(), _cpu_seconds(process.pid)
        pipe.write(json.dumps({"kind": kind, "folder": str(folder)}) + "\n")
        pipe.flush()
        while not select.select([answers], [], [], 1.0)[0]:
            if _cpu_seconds(process.pid) - cpu > SECONDS or time.monotonic() - began > 4 * SECONDS:
                self.stop()
                return {"accepted": False, "faults": ["hang"], "mb": 0}
        line = answers.readline()
        if not line:
            status = process.wait()
            self.process = None
            return {"accepted": False, "faults": [f"the process died with {status}"], "mb": 0}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.fuzz.child", str(self.base.folder)]
        variables = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self.process

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Run:
    """Counts of a run, and the inputs that it keeps."""

    def __init__(self, child: Child, corpus: Path, work: Path) -> None:
        self.child, self.corpus, self.work = child, corpus, work
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self.most_mb: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.seen: set[str] = set()

    def use(self, kind: str, files: Files) -> None:
        """Use one input and count it."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        for name, content in files.items():
            (self.work / name).write_bytes(content)
        began = time.monotonic()
        answer = self.child.use(kind, self.work)
        self.seconds[kind] = max(self.seconds[kind], time.monotonic() - began)
        self.most_mb[kind] = max(self.most_mb[kind], answer["mb"])
        self.counts[kind]["inputs"] += 1
        self.counts[kind]["taken" if answer["accepted"] else "refused"] += 1
        for fault in answer["faults"]:
            self.counts[kind]["faults"] += 1
            self.keep(kind, fault, files)

    def keep(self, kind: str, fault: str, files: Files) -> None:
        """Put an input into the corpus: the first of each fault."""
        key = f"{kind}: {fault.rpartition(' at ')[2] if fault.startswith('traceback') else fault[:60]}"
        if key in self.seen:
            return
        self.seen.add(key)
        place = self.corpus / kind / f"{time.time_ns()}"
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        (place / "fault.txt").write_text(fault + "\n", encoding="utf-8", errors="backslashreplace")
        print(f"{kind}: {fault!a} ({place})", file=sys.stderr, flush=True)

    def table(self) -> str:
        """The counts as Markdown."""
        lines = ["| kind | inputs | taken | refused | faults | slowest, s | most memory, MB |", "|" + " --- |" * 7]
        for kind, count in self.counts.items():
            cells = [str(count[name]) for name in ("inputs", "taken", "refused", "faults")]
            lines.append(f"| {' | '.join([kind, *cells, f'{self.seconds[kind]:.1f}', str(self.most_mb[kind])])} |")
        return "\n".join(lines)


def kept_inputs(corpus: Path) -> Iterator[tuple[str, Files]]:
    """The inputs of a corpus."""
    for kind in KINDS:
        for place in sorted((corpus / kind).glob("*")):
            yield kind, {path.name: path.read_bytes() for path in place.iterdir() if path.name != "fault.txt"}


def fuzz(run: Run, base: Base, kind: str, count: int, number: int) -> None:
    """Make and use `count` inputs of a kind."""
    done = run.counts[kind]["inputs"]
    while (left := done + count - run.counts[kind]["inputs"]) > 0:
        number += 1000

        @seed(number)
        @settings(
            max_examples=min(left, 500),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(KINDS[kind](base))
        def used(files: Files) -> None:
            if run.counts[kind]["inputs"] < done + count:
                run.use(kind, files)
                if run.counts[kind]["inputs"] % 500 == 0:
                    print(f"{kind}: {dict(run.counts[kind])}", file=sys.stderr, flush=True)

        used()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="in all; each kind has its share")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the inputs that caused faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--kept", action="store_true", help="only the inputs of the corpus")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = base_files(folder)
        child = Child(base)
        run = Run(child, arguments.corpus, folder / "work")
        try:
            for kind, files in kept_inputs(arguments.corpus):
                run.use(kind, files)
            shares = sum(SHARES[kind] for kind in arguments.kinds)
            for kind in [] if arguments.kept else arguments.kinds:
                count = -(-arguments.inputs * SHARES[kind] // shares)
                fuzz(run, base, kind, count, arguments.seed)
                print(f"{kind}: {dict(run.counts[kind])}", file=sys.stderr, flush=True)
        finally:
            child.stop()
            print(run.table(), flush=True)
    return int(any(count["faults"] for count in run.counts.values()))


if __name__ == "__main__":
    sys.exit(main())
