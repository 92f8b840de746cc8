"""The one place that imports the native modules: everything else takes what they have from here."""

from pathlib import Path

try:
    from fal._native import ffi, lib
    from fal._packets import copies
except ModuleNotFoundError as e:
    raise ImportError(
        f"{Path(__file__).parent} is FAL's source, not the package that is installed:"
        " start Python elsewhere, or with -P"
    ) from e

__all__ = ["copies", "ffi", "lib"]
