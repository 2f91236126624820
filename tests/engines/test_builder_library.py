"""Which builder is taken, and what it says of itself."""

from types import ModuleType

import pytest

from condinst_deploy.errors import BackendError, ConfigError
from condinst_engines import builder_library
from condinst_engines.builder_library import BuilderLibrary, load_builder_library


def only(monkeypatch: pytest.MonkeyPatch, **modules: ModuleType) -> None:
    """Let just these modules be installed."""

    def find(name: str) -> ModuleType:
        if name not in modules:
            raise ImportError(name)
        return modules[name]

    monkeypatch.setattr(builder_library, "import_module", find)


def builder(name: str) -> ModuleType:
    module = ModuleType(name)
    module.Builder = object  # type: ignore[attr-defined]
    module.__version__ = "11.4.0"  # type: ignore[attr-defined]
    return module


def test_rtx_is_here_and_builds_ahead_of_time(rtx: BuilderLibrary) -> None:
    assert (rtx.name, rtx.builds_ahead, rtx.has_timing_cache, rtx.has_plugins) == ("rtx", True, False, False)
    assert {"75", "80", "86", "89", "120"} <= set(rtx.targets)
    assert not {"90", "100"} & set(rtx.targets)


def test_tensorrt_is_taken_where_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, tensorrt=builder("tensorrt"), tensorrt_rtx=builder("tensorrt_rtx"))
    assert load_builder_library().name == "tensorrt"
    assert (load_builder_library().version, load_builder_library().builds_ahead, load_builder_library().targets) == (
        "11.4.0",
        False,
        (),
    )
    assert load_builder_library("rtx").name == "rtx"


def test_rtx_is_taken_where_tensorrt_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, tensorrt_rtx=builder("tensorrt_rtx"))
    assert load_builder_library().name == "rtx"


def test_a_folder_of_type_stubs_is_not_a_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, tensorrt=ModuleType("tensorrt"), tensorrt_rtx=builder("tensorrt_rtx"))
    assert load_builder_library().name == "rtx"
    with pytest.raises(BackendError):
        load_builder_library("tensorrt")


def test_what_is_missing_is_said_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(BackendError, match=r"condinst-deploy\[tensorrt\].*condinst-deploy\[rtx\]"):
        load_builder_library()
    with pytest.raises(BackendError, match=r"condinst-deploy\[rtx\]"):
        load_builder_library("rtx")
    with pytest.raises(BackendError, match=r"condinst-deploy\[tensorrt\]"):
        load_builder_library("tensorrt")


def test_an_unknown_builder_is_refused() -> None:
    with pytest.raises(ConfigError, match="'vanilla'; expected tensorrt or rtx"):
        load_builder_library("vanilla")
