"""Files of trained parameters."""

from .header import Header, WeightsError, read_header, title
from .native import Loaded, load, load_into, save

__all__ = ["Header", "Loaded", "WeightsError", "load", "load_into", "read_header", "save", "title"]
