"""Which version of this package runs."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

from .. import __version__

__all__ = ["source_version"]


def source_version(package: Path = Path(__file__).parents[1]) -> dict[str, str | None]:
    """``version`` and ``commit`` (None where it is not known; ``-dirty`` at its end: with changes not committed).

    Args:
        package: folder of the package; ``<repository>/python/faceattr_fast`` in a source tree.
    """
    root = package.parents[1]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        if project["name"] != "faceattr_fast" or not (root / "python" / "faceattr_fast").samefile(package):
            raise KeyError
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return {"version": __version__, "commit": None}  # installed: nothing says from which commit
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"version": project["version"], "commit": commit}
