"""Calls of TensorRT's library around an engine, recorded by a stand-in; the real library has each name."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.gpu import Stream
from condinst_deploy.runtime.tensorrt.engine import CACHE_SUFFIX, SECONDS_BETWEEN_SAVES, Engine
from condinst_deploy.runtime.tensorrt.execution_context import ExecutionContext
from tests.support.engine_manifests import engine_manifest, image_profile

TENSORRT = engine_manifest(image_profile((1, 32, 32), (8, 256, 256)))
RTX = replace(TENSORRT, flavour="rtx", plugins=())


@dataclass
class Cache:
    content: bytes = b""
    accepts: bool = True
    serializes: bool = True
    given: list[bytes] = field(default_factory=list)

    def deserialize(self, content: bytes) -> bool:
        self.given.append(content)
        return self.accepts

    def serialize(self) -> bytes | None:
        return self.content if self.serializes else None


@dataclass
class Config:
    cache: Cache | None
    takes_cache: bool = True
    cuda_graph_strategy: str = ""
    strategy: str = ""
    used: Any = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Cache | None:
        return self.cache

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.used = cache
        return self.takes_cache


@dataclass
class Plan:
    config: Config | None
    contexts: list[Any] = field(default_factory=list)

    def create_runtime_config(self) -> Config | None:
        return self.config

    def create_execution_context(self, how: Any) -> str:
        self.contexts.append(how)
        return "a context"


LIBRARY = SimpleNamespace(
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
)


def test_contexts_of_tensorrt_get_memory_of_the_user_and_graphs_of_ours(tmp_path: Path) -> None:
    plan = Plan(Config(Cache()))
    engine = Engine(LIBRARY, plan, TENSORRT, tmp_path / "a.engine")
    assert engine.context() == "a context"
    assert plan.contexts == ["user managed"]
    assert engine.graph_limits is not None
    engine.close()
    assert list(tmp_path.iterdir()) == []


def test_an_engine_with_a_loop_is_never_captured(tmp_path: Path) -> None:
    engine = Engine(LIBRARY, Plan(Config(Cache())), replace(TENSORRT, plugins=()), tmp_path / "a.engine")
    assert engine.graph_limits is None


def test_rtx_captures_by_itself_and_keeps_its_kernels(tmp_path: Path) -> None:
    cache = Cache(b"kernels")
    plan = Plan(Config(cache))
    engine = Engine(LIBRARY, plan, RTX, tmp_path / "a.engine")
    assert engine.context() == "a context"
    (config,) = plan.contexts
    assert (config.strategy, config.cuda_graph_strategy, config.used) == ("user managed", "whole graph", cache)
    assert engine.graph_limits is None
    engine.close()
    file = tmp_path / f"a.engine{CACHE_SUFFIX}"
    assert file.read_bytes() == b"kernels"
    again = Cache(b"kernels")
    Engine(LIBRARY, Plan(Config(again)), RTX, tmp_path / "a.engine").close()
    assert again.given == [b"kernels"]


@pytest.mark.parametrize(("accepts", "found"), [(True, b"many kernels"), (False, b"new")])
def test_the_kernels_of_another_machine_are_replaced(tmp_path: Path, accepts: bool, found: bytes) -> None:
    file = tmp_path / f"a.engine{CACHE_SUFFIX}"
    file.write_bytes(b"many kernels")
    Engine(LIBRARY, Plan(Config(Cache(b"new", accepts))), RTX, tmp_path / "a.engine").close()
    assert file.read_bytes() == found


def test_kernels_are_kept_while_the_engine_runs_and_not_at_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("condinst_deploy.runtime.tensorrt.engine.monotonic", lambda: now)
    cache, file = Cache(b"few"), tmp_path / f"a.engine{CACHE_SUFFIX}"
    engine = Engine(LIBRARY, Plan(Config(cache)), RTX, tmp_path / "a.engine")
    assert not file.exists()
    engine.ran()
    assert file.read_bytes() == b"few"
    cache.content = b"more kernels"
    engine.ran()
    assert file.read_bytes() == b"few"
    now += SECONDS_BETWEEN_SAVES
    engine.ran()
    assert file.read_bytes() == b"more kernels"
    file.unlink()
    now += SECONDS_BETWEEN_SAVES
    engine.ran()  # nothing was compiled since
    engine.close()
    assert list(tmp_path.iterdir()) == []
    engine.ran()


@pytest.mark.parametrize(
    ("config", "fault"),
    [(Config(Cache(b"kernels"), takes_cache=False), "does not take"), (Config(None), "could not make")],
)
def test_a_cache_that_the_library_refuses_is_said_once_and_not_written(
    tmp_path: Path, config: Config, fault: str
) -> None:
    with pytest.warns(UserWarning, match=f"{fault} the cache of compiled kernels; .* every start") as found:
        engine = Engine(LIBRARY, Plan(config), RTX, tmp_path / "a.engine")
    assert len(found) == 1
    assert engine.context() == "a context"
    engine.ran()
    engine.close()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condinst_deploy.runtime.tensorrt.engine.SECONDS_BETWEEN_SAVES", 0.0)
    engine = Engine(LIBRARY, Plan(Config(Cache(b"kernels", serializes=False))), RTX, tmp_path / "a.engine")
    with pytest.warns(UserWarning, match="could not write the cache") as found:
        engine.ran()
    assert len(found) == 1
    engine.ran()
    engine.close()


def test_an_engine_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="could not configure the engine"):
        Engine(LIBRARY, Plan(None), RTX, tmp_path / "a.engine")


@pytest.mark.parametrize("shape", [(-1, 100), (), (8, -1)])
def test_a_shape_that_the_library_does_not_know_is_refused(shape: tuple[int, ...]) -> None:
    library: Any = SimpleNamespace(get_tensor_shape={"boxes": (8, 100, 4), "scores": shape}.__getitem__)
    context = ExecutionContext(library, None, cast("Stream", None))
    assert context.tensor_shapes(["boxes"]) == {"boxes": (8, 100, 4)}
    with pytest.raises(BackendError, match="does not know the shape of scores; build it again"):
        context.tensor_shapes(["boxes", "scores"])


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path) -> None:
    engine = Engine(LIBRARY, Plan(Config(Cache(b"kernels"))), RTX, tmp_path / "gone" / "a.engine")
    engine.ran()
    engine.close()


def test_the_real_library_has_every_name() -> None:
    import tensorrt_rtx as trt

    assert {"USER_MANAGED"} <= set(trt.ExecutionContextAllocationStrategy.__members__)
    assert {"WHOLE_GRAPH_CAPTURE"} <= set(trt.CudaGraphStrategy.__members__)
    names = {
        trt.ICudaEngine: ["create_execution_context", "create_runtime_config"],
        trt.IRuntimeConfig: [name for name in vars(Config) if name.startswith(("set_", "create_", "cuda_"))],
        trt.IRuntimeCache: ["serialize", "deserialize"],
        trt.IExecutionContext: [
            "set_optimization_profile_async",
            "set_input_shape",
            "update_device_memory_size_for_shapes",
            "get_tensor_shape",
            "set_device_memory",
            "set_tensor_address",
            "execute_async_v3",
            "is_stream_capturable",
        ],
    }
    for kind, wanted in names.items():
        assert wanted
        assert set(wanted) <= set(dir(kind))
