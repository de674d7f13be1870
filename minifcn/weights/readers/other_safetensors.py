"""Safetensors files that minifcn did not write: named arrays, and what their writer said of them.

Eight bytes with the length of a JSON text, the text with each array's type, shape and place, and
the arrays.
"""

from __future__ import annotations

import json

from safetensors import SafetensorError, safe_open

from ..foreign import Foreign
from ..header import FORMAT
from .mapped import MappedFile, check_name, from_bfloat16, native, shown

LONGEST_HEADER = 10 << 20  # bytes: some 100,000 arrays
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # NumPy has no such type: the bits
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def is_safetensors(file: MappedFile) -> bool:
    """Tell whether a file starts as safetensors files do."""
    return file.map[8:9] == b"{" and int.from_bytes(file.map[:8], "little") < 1 << 40


def read_safetensors(file: MappedFile) -> Foreign:
    """Return the arrays of a ``.safetensors`` file of another program.

    Returns
    -------
    Foreign
        ``tensors`` are views of the file; only 16-bit floating-point numbers are copies, of
        float32. ``info`` is the file's metadata.

    Raises
    ------
    WeightsError
        If the file is damaged, has arrays of a type that NumPy lacks, or is one of minifcn's own.
    """
    length = int.from_bytes(file.map[:8], "little")
    if length > min(LONGEST_HEADER, file.size - 8):
        raise file.error(
            f"its header should have {length} bytes, of {file.size} in all: cut short or damaged"
        )
    try:
        with safe_open(
            file.path, framework="np"
        ) as opened:  # checks the header and all places in it
            info: dict[str, str] = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise file.error(f"damaged, or cut short: {error}") from error
    if info.get("format") == FORMAT:
        raise file.error("a weight file of minifcn's own: read it with minifcn.weights.load")
    header = json.loads(file.map[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        check_name(file.path, name)
        if entry["dtype"] not in DTYPES:
            raise file.error(
                f"{shown(name)} is of {shown(entry['dtype'])} numbers; known are "
                f"{', '.join(DTYPES)}: convert it to float32 first"
            )
        place = 8 + length + entry["data_offsets"][0]
        array = file.array(DTYPES[entry["dtype"]], entry["shape"], place, name)
        tensors[name] = from_bfloat16(array) if entry["dtype"] == "BF16" else native(array)
    if not tensors:
        raise file.error("a safetensors file without arrays")
    return Foreign(file.path, "safetensors", tensors, info)
