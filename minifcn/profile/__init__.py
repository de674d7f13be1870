"""Where the time and the memory of a training step go.

`profiling` looks on while steps are made: what ran how long, in which layer, what it multiplied and
moved. `saved_bytes` tells what a graph holds for its backward pass. See docs/profile.md.
"""

from .observe import Profile, ProfileError, profiling
from .rows import Row
from .saved import SavedBytes, saved_bytes

__all__ = ["Profile", "ProfileError", "Row", "SavedBytes", "profiling", "saved_bytes"]
