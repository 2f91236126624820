"""A builder's log: errors kept for the message of an exception, everything to a file where one is wanted."""

from contextlib import suppress
from typing import Any, TextIO

from condinst_deploy.shown_text import shown

NO_REASON = "no reason was given (--log FILE keeps what the builder says)"


class BuilderLog:
    """Receives what a builder says. `logger` is what the library takes."""

    def __init__(self, trt: Any, file: TextIO | None = None) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.file = file
        self.logger = _logger_for(trt, self)

    def add(self, severity: str, message: str) -> None:
        """Take one message; called from the builder's threads, too."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)
        if self.file is not None:
            with suppress(OSError):  # a full disk must not end the build from inside a callback
                self.file.write(f"[{severity}] {shown(message)}\n")

    @property
    def reason(self) -> str:
        """The errors, in one line."""
        return "; ".join(dict.fromkeys(message.strip() for message in self.errors)) or NO_REASON


def _logger_for(trt: Any, log: BuilderLog) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            log.add(severity.name, message)

    return Logger()
