"""A loaded engine of either builder: execution contexts without memory of their own, graphs, kernels' cache."""

import warnings
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.errors import BackendError, OutputError
from condinst_deploy.runtime.hot_shapes import HotLimits
from condinst_deploy.support.atomic_write import atomic_path

CACHE_SUFFIX = ".runtime_cache"
"""Suffix of the file beside an engine with the kernels that TensorRT for RTX compiled for this machine's GPU."""

NO_CACHE = (
    "TensorRT for RTX {fault} the cache of compiled kernels; the engine runs, but every start compiles them again"
)

SECONDS_BETWEEN_SAVES = 60.0
"""At least; runs between them only look at a clock."""


class Engine:
    """An engine of the library, with the state that its contexts share. Close it after its contexts."""

    def __init__(self, library: Any, engine: Any, manifest: EngineManifest, path: Path) -> None:
        """Set up what contexts of TensorRT for RTX share. If its cache of kernels cannot be used, warn and go on.

        Raises:
            BackendError: the library makes no configuration.
        """
        self._library, self._engine, self._manifest = library, engine, manifest
        self._cache_path = path.with_name(f"{path.name}{CACHE_SUFFIX}")
        self._config: Any = None
        self._cache: Any = None
        self._cached = 0  # bytes of the cache's file
        self._saving = Lock()
        self._save_after = 0.0  # of the monotonic clock; the first run saves
        self._make_config()

    @property
    def graph_limits(self) -> HotLimits | None:
        """Limits of our own CUDA graphs.

        None if there are none: TensorRT for RTX captures by itself, because it replaces kernels without notice. An
        engine without plugins selects instances in a loop, whose trip count the host reads; that cannot be captured.
        """
        return HotLimits() if self._manifest.flavour == "tensorrt" and self._manifest.plugins else None

    def context(self) -> Any:
        """Return an execution context whose activation memory the caller gives; None if the library makes none."""
        if self._config is not None:
            return self._engine.create_execution_context(self._config)
        return self._engine.create_execution_context(self._library.ExecutionContextAllocationStrategy.USER_MANAGED)

    def ran(self) -> None:
        """Keep the kernels that were compiled so far, if some time has passed since the last look at them.

        A process that is killed never comes to `close`. Threads may call it; it does not wait for another's save.
        """
        if self._cache is None or monotonic() < self._save_after or not self._saving.acquire(blocking=False):
            return
        try:
            self._save()
            self._save_after = monotonic() + SECONDS_BETWEEN_SAVES
        finally:
            self._saving.release()

    def close(self) -> None:
        """Keep the kernels that were compiled, and release the engine."""
        with self._saving:
            self._save()
            self._cache = self._config = self._engine = None

    def _save(self) -> None:
        with suppress(OutputError):  # a read-only folder only makes the next start slower
            self._write_cache()

    def _make_config(self) -> None:
        if self._manifest.flavour != "rtx":
            return
        self._config = self._engine.create_runtime_config()
        if self._config is None:
            raise BackendError("TensorRT could not configure the engine; it printed the reason above")
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        self._config.set_execution_context_allocation_strategy(strategy)
        self._config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        if self._cache is None:
            self._go_on_without_cache("could not make")
            return
        with suppress(OSError):
            content = self._cache_path.read_bytes()
            if self._cache.deserialize(content):  # else it is of another GPU, driver or version
                self._cached = len(content)
        if not self._config.set_runtime_cache(self._cache):
            self._go_on_without_cache("does not take")

    def _go_on_without_cache(self, fault: str) -> None:
        self._cache = None
        warnings.warn(NO_CACHE.format(fault=fault), stacklevel=2)

    def _write_cache(self) -> None:
        if self._cache is None:
            return
        kernels = self._cache.serialize()
        if kernels is None:
            self._go_on_without_cache("could not write")
            return
        content = bytes(kernels)
        if len(content) > self._cached:
            with atomic_path(self._cache_path) as temporary:
                temporary.write_bytes(content)
            self._cached = len(content)
