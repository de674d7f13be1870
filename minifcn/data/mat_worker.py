"""A program of its own that reads variables of MATLAB files; `minifcn.data.mat` runs it.

SciPy's reader is compiled and trusts what it reads: some damaged files make it crash, or ask for
all memory. So it runs in a process of its own, which stays for the next file: most data sets have
thousands of small ones.

For each line of JSON, ``[PATH, VARIABLE, MOST_NUMBERS]``, it prints one, and then the bytes of the
array, as many as the line says. A variable is ``"S"``, or ``"GTcls.Segmentation"`` for the field of
a struct.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from typing import Any

import numpy as np
import scipy.io

NUMBERS = "uifb"  # kinds of NumPy's types


def main() -> None:
    """Answer each line of the input."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches all: a file is still read then
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # of what a file has twice; what it holds is checked later
    output = sys.stdout.buffer
    for line in sys.stdin:
        path, variable, most = json.loads(line)
        try:
            told, array = describe(path, variable, most)
        except Exception as error:  # a damaged file makes SciPy raise errors of a dozen types
            told, array = {"error": f"{type(error).__name__}: {error}"}, b""
        output.write(json.dumps(told | {"sent": len(array)}).encode() + b"\n")
        output.write(array)
        output.flush()


def describe(path: str, variable: str, most: int) -> tuple[dict[str, Any], bytes]:
    """Return what there is to know of a variable, and its numbers if it has any."""
    name, _, field = variable.partition(".")
    content = scipy.io.loadmat(path, variable_names=[name], appendmat=False)
    if name not in content:
        return {"variables": [str(known) for known, _, _ in scipy.io.whosmat(path)]}, b""
    array = np.asarray(content[name])
    fields = array.dtype.names or ()
    if field and field in fields and array.size == 1:
        name, array = variable, np.asarray(array.item()[fields.index(field)])
    told = {
        "name": name,
        "type": str(array.dtype) if array.dtype.names is None else "struct",
        "fields": list(array.dtype.names or ()),
        "shape": array.shape,
    }
    if array.dtype.kind not in NUMBERS:
        return told, b""
    if array.size > most:
        raise ValueError(f"{name} has {array.size} numbers, and at most {most} are read")
    return told | {"dtype": array.dtype.str}, np.ascontiguousarray(array).tobytes()


if __name__ == "__main__":
    main()
