"""numpy dtypes of the shared structs, derived from layout.h."""

from __future__ import annotations

import numpy as np

from fal.bindings import ffi


def dtype_of(struct: str) -> np.dtype[np.void]:
    """Derive the dtype of a C struct of plain integers, with its names and offsets."""
    ctype = ffi.typeof(struct)
    fields = dict(ctype.fields)
    return np.dtype(
        {
            "names": list(fields),
            "formats": [field.type.cname.removesuffix("_t") for field in fields.values()],
            "offsets": [field.offset for field in fields.values()],
            "itemsize": ffi.sizeof(ctype),
        }
    )


DESCRIPTOR = dtype_of("struct fal_desc")
