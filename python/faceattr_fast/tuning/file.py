"""The file that ``faceattr tune`` writes: by machine, the algorithm that was measured best for each convolution.

It is read whenever a network is loaded. FACEATTR_TUNE names it (then it has to be there and in order) or says ``off``;
otherwise it is ``tune.json`` in the cache folder, which need not be there. It may hold several machines: what counts is
the entry whose CPU model, instruction set and version of this package are those at hand. There, by ``dtype``, a
convolution is known by its :func:`.signature`: networks and choices of heads share what they have in common.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ..cache import cache_folder
from ..machine import cpu_model
from ..plan.algorithms import forced_algorithm
from ..plan.phases import Algorithm

__all__ = [
    "TUNE_ENVIRONMENT",
    "Overrides",
    "TuneFile",
    "cached_tune_file",
    "current_overrides",
    "default_tune_file",
    "machine_key",
    "merge_tuning",
    "read_choices",
    "read_tunings",
]


TUNE_ENVIRONMENT = "FACEATTR_TUNE"
_NAME, _FORMAT = "tune.json", 1
_ALGORITHMS = get_args(Algorithm)

Json = dict[str, Any]


class Overrides(NamedTuple):
    """What goes before the rule: one algorithm for all convolutions, or one by signature."""

    forced: Algorithm | None
    tuned: Mapping[str, str]


class TuneFile(NamedTuple):
    """Where choices are kept; ``named`` by the user, who then expects it to be there."""

    path: Path
    named: bool


def current_overrides(isa: str, dtype: str) -> Overrides:
    """From FACEATTR_ALGORITHM, which goes first, and FACEATTR_TUNE.

    Args:
        isa: the instruction set in use.
        dtype: of the network.

    Raises:
        DeviceError: FACEATTR_ALGORITHM names no algorithm.
        ValueError: FACEATTR_TUNE names a file that is missing or damaged.
    """
    forced = forced_algorithm()
    file = None if forced else default_tune_file()
    if file is None:
        return Overrides(forced, {})
    try:
        return Overrides(None, read_choices(file.path, isa).get(dtype, {}))
    except (OSError, ValueError) as error:
        if file.named:
            raise ValueError(
                f"{TUNE_ENVIRONMENT}: expected a file that faceattr tune wrote, or off; {error}"
            ) from error
        if not isinstance(error, FileNotFoundError):
            _warn_once(str(error))
        return Overrides(None, {})


def default_tune_file() -> TuneFile | None:
    """The file in force, there or not; None: FACEATTR_TUNE is ``off``, or nobody knows the user's home."""
    named = os.environ.get(TUNE_ENVIRONMENT)
    if named:
        return None if named == "off" else TuneFile(Path(named), named=True)
    try:
        return cached_tune_file()
    except RuntimeError:
        return None


def cached_tune_file() -> TuneFile:
    """``tune.json`` in the cache folder; raises as :func:`.cache_folder` does."""
    return TuneFile(cache_folder() / _NAME, named=False)


@lru_cache
def _warn_once(problem: str) -> None:
    import logging  # rarely needed

    logging.getLogger(__name__).warning("%s; it is ignored, and faceattr tune writes it anew", problem)


def machine_key(isa: str) -> dict[str, str]:
    """What times can be compared on: the CPU, the instruction set in use, and the kernels of one version."""
    return {"cpu": cpu_model(), "isa": isa, "version": _version()}


def read_choices(path: Path, isa: str) -> dict[str, dict[str, str]]:
    """By dtype and signature, the algorithms for this machine; empty where the file has nothing for it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no tune file, or damaged.
    """
    key = machine_key(isa)
    for tuning in read_tunings(path)["tunings"]:
        if _key_of(tuning) == key:
            return {
                dtype: {name: entry["algorithm"] for name, entry in convolutions.items()}
                for dtype, convolutions in tuning["dtypes"].items()
            }
    return {}


def read_tunings(path: Path) -> Json:
    """A file as :func:`merge_tuning` makes it; raises as :func:`read_choices` does."""
    try:
        document: Json = json.loads(path.read_bytes())
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']!r}, expected {_FORMAT}")
        version = _version()
        for tuning in document["tunings"]:
            for convolutions in tuning["dtypes"].values():
                for name, entry in convolutions.items():
                    # What another version can do is its own business.
                    if tuning["version"] == version and entry["algorithm"] not in _ALGORITHMS:
                        raise ValueError(f"unknown algorithm {entry['algorithm']!r} for {name!r}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else f"it has another structure ({error!r})"
        raise ValueError(f"{path} is no tune file, or damaged: {what}") from error
    return document


def _key_of(tuning: Json) -> Json:
    return {name: tuning.get(name) for name in ("cpu", "isa", "version")}


def _version() -> str:
    from .. import __version__

    return __version__


def merge_tuning(document: Json | None, key: Mapping[str, str], dtype: str, convolutions: Mapping[str, Json]) -> Json:
    """The document with new measurements of one machine and dtype; what it has of others, or of other convolutions,
    stays.

    Args:
        document: from :func:`read_tunings`; None: there is none yet.
        key: from :func:`machine_key`.
        convolutions: by signature, with their ``algorithm`` and whatever else is worth keeping.
    """
    tunings = list(document["tunings"]) if document else []
    old: Json = next((tuning for tuning in tunings if _key_of(tuning) == key), {"dtypes": {}})
    dtypes = {**old["dtypes"], dtype: {**old["dtypes"].get(dtype, {}), **convolutions}}
    return {"format": _FORMAT, "tunings": [*(t for t in tunings if t is not old), {**key, "dtypes": dtypes}]}
