"""The other end of `worker.py`: a model's process, asked and answered line by line."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from condinst_deploy import errors
from condinst_deploy.support import current_folder
from condinst_deploy.support.json_text import json_text

WORKER = (sys.executable, "-P", "-m", "condinst_deploy.benchmarking.worker")
SECONDS_TO_END = 10.0


class ModelProcess:
    """One model in a separate process, which ends with the `with` block."""

    def __init__(self, model: Path, cores: Sequence[int], command: Sequence[str] = WORKER) -> None:
        """Start the process on these cores, with as many threads of each library as there are cores.

        Args:
            model: named in errors.
            cores: that the process may use; the last argument of the command.
            command: runs `worker.answer_requests`.
        """
        self.model = model
        environment = os.environ | {"OMP_NUM_THREADS": str(len(cores))}
        self._process = subprocess.Popen(
            [*command, ",".join(map(str, cores))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the signal's number if a signal ended it; None while it runs."""
        return self._process.returncode

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a request: a method of the worker, and its arguments.

        Raises:
            CondInstError: the model's process raised it.
            BackendError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json_text({"verb": verb} | arguments, "a request") + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            if current_folder.is_gone():
                raise errors.BackendError(current_folder.GONE)
            raise errors.BackendError(
                f"the process that ran {self.model} ended with status {self._process.wait()};"
                " it printed the reason above; with status -9 the system ran out of memory: try a smaller --batch"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()  # it may be in the middle of a long call
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # it is gone already
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
