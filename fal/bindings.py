"""The one place that imports the native module: everything else takes `ffi` and `lib` from here."""

from fal._native import ffi, lib

__all__ = ["ffi", "lib"]
