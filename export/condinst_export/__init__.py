"""The stage PyTorch -> ONNX: one file that shows the two special operations as two nodes."""

from typing import TYPE_CHECKING, Any

from condinst_deploy.support.extras import resolved

if TYPE_CHECKING:
    from condinst_export.export_options import ExportOptions
    from condinst_export.exporter import ExportedModel, ExportReports, export_model

_HOMES = {
    "ExportOptions": "condinst_export.export_options",
    "ExportReports": "condinst_export.exporter",
    "ExportedModel": "condinst_export.exporter",
    "export_model": "condinst_export.exporter",
}

__all__ = ["ExportOptions", "ExportReports", "ExportedModel", "export_model"]


def __getattr__(name: str) -> Any:
    # resolved at the first use: `condinst-export --help` does not wait for PyTorch
    return resolved(__name__, name, _HOMES, "export")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
