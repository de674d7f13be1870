"""Files of trained parameters: our own, and those of other programs."""

from .convert import Converted, convert, load, load_fcn
from .foreign import Foreign, open_foreign
from .header import Header, WeightsError, read_header, title
from .native import Loaded, load_into, save
from .writing import check_place

__all__ = [
    "Converted",
    "Foreign",
    "Header",
    "Loaded",
    "WeightsError",
    "check_place",
    "convert",
    "load",
    "load_fcn",
    "load_into",
    "open_foreign",
    "read_header",
    "save",
    "title",
]
