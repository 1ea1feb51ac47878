"""What a weights file says about the faces that it learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .head_data import Faces

__all__ = ["joined_terms", "trained_on"]


def joined_terms(before: Mapping[str, Any], faces: Faces, train: np.ndarray) -> str:
    """The licence so far and the terms of the sets, each once.

    Args:
        before: metadata of the weights that training began from; empty where they were random.
        faces: of the sets.
        train: [N] booleans, those that were trained on.
    """
    terms = (str(source.packed.info.get("terms", "")) for source in faces.sources(train))
    return "; ".join(dict.fromkeys(filter(None, [str(before.get("licence", "")), *terms])))


def trained_on(
    before: Mapping[str, Any], faces: Faces, train: np.ndarray, labels: Mapping[str, Sequence[str]], **more: Any
) -> list[dict[str, Any]]:
    """What was trained on so far, and these sets.

    Args:
        before, faces, train: as in :func:`joined_terms`.
        labels: what of each set was learned, by its name.
        more: further entries of each set.
    """
    entries = []
    for source in faces.sources(train):
        info = source.packed.info
        entry = {"name": info["name"], "images": len(source.rows), "labels": list(labels[info["name"]]), **more}
        entries.append(entry | ({"terms": info["terms"]} if "terms" in info else {}))
    known = before.get("trained_on")
    return [*(known if isinstance(known, list) else []), *entries]
