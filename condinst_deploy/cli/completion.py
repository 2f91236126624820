"""Completion is made for the shell that starts a command; without one that typer knows, it is refused in one line."""

from collections.abc import Collection

OPTIONS = ("--show-completion", "--install-completion")

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
"""Shells that typer makes scripts for, by the names of their programs."""


def refusal(arguments: Collection[str]) -> str | None:
    """Return why arguments ask for a completion that cannot be made; None: they do not, or it can.

    Typer by itself says "Shell  not supported", or "Shell None is not supported" on standard output.
    """
    option = next((option for option in OPTIONS if option in arguments), None)
    name = None if option is None else _shell_in_use()
    if option is None or name in SHELLS:
        return None
    found = "no shell" if name is None else f"the shell {name}"
    return f"{option} is for bash, zsh, fish and PowerShell, and {found} started this command; run it in one of them"


def _shell_in_use() -> str | None:
    # comes with typer, and only these options need it
    import shellingham

    try:
        return str(shellingham.detect_shell()[0])
    except (shellingham.ShellDetectionFailure, RuntimeError):  # no shell, or no way to look for it
        return None
