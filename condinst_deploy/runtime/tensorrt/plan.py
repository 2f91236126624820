"""Deserialise a plan with the library of its builder."""

from typing import Any


def engine_from_plan(library: Any, logger: Any, plan: bytes, *, host_code: bool) -> Any:
    """The library's engine object; None if the library refuses the plan, whose reason is then in the logger.

    Args:
        library: module `tensorrt` or `tensorrt_rtx`.
        logger: the library's logger.
        plan: the serialised engine.
        host_code: allow the code that a version-compatible engine contains to run on the host.
    """
    runtime = library.Runtime(logger)
    if host_code:
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(plan)
