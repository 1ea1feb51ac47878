"""The folder of what is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``FACEATTR_CACHE``, by default ``~/.cache/faceattr``; it need not exist.

    Raises:
        RuntimeError: nobody knows where this user's home is.
    """
    folder = os.environ.get("FACEATTR_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "faceattr"
