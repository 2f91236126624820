"""The current folder of a process, which another program may delete while it runs.

Libraries look for it at moments of their own: PyTorch while it is imported, MKL when it first multiplies. What they
raise then names neither the folder nor what to do.
"""

import os

GONE = "the current folder was deleted; change to one that exists"
"""What a person has to know then, and do."""


def is_gone() -> bool:
    """Return whether the current folder was deleted, or cannot be asked for."""
    try:
        os.getcwd()  # noqa: PTH109  (Path.cwd is the same)
    except OSError:
        return True
    return False
