"""Pictures of a face set as network input: jitter of place, scale, turn, light, colour and sharpness.

The jitter covers the spread of crops by a box alone (``crop_box``), so that these work as well as aligned ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .datasets import FaceSet

__all__ = ["Jitter", "render"]


@dataclass(frozen=True)
class Jitter:
    """Standard deviations and probabilities of the augmentation.

    Args:
        shift: (across, down), as a share of the crop's side.
        scale: of the logarithm of the scale.
        turn: degrees.
        grey: probability of losing the colour, so that grey is no sign of a data set.
        blur: probability of being seen at a lower resolution, for the same reason.
        erase: probability that a rectangle is covered by noise.
    """

    shift: tuple[float, float] = (0.04, 0.03)
    scale: float = 0.08
    turn: float = 5.0
    grey: float = 0.15
    blur: float = 0.25
    erase: float = 0.05

    def __post_init__(self) -> None:
        if not (isinstance(self.shift, tuple) and len(self.shift) == 2 and all(map(_is_amount, self.shift))):
            raise ValueError(f"shift: expected two numbers of at least 0, got {self.shift!r}")
        for name in ("scale", "turn", "grey", "blur", "erase"):
            if not _is_amount(getattr(self, name)):
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")


def render(
    faces: FaceSet, indices: np.ndarray, size: int, jitter: Jitter | None = None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Crops as uint8 [n, size, size, 3]; without ``jitter`` exactly the crop, no flip. ``rng`` drives the jitter."""
    import cv2

    rng = np.random.default_rng() if rng is None else rng

    half = faces.pictures.shape[1] // 2
    halve = size <= half / (1 + 2 * faces.margin)
    out = np.empty((len(indices), size, size, 3), np.uint8)
    for row, index in zip(out, indices, strict=True):
        picture = np.asarray(faces.pictures[index])
        blur = jitter is not None and faces.margin and rng.random() < jitter.blur
        if halve or blur:
            picture = cv2.resize(picture, (half, half), interpolation=cv2.INTER_AREA)
        if blur:
            side = int(rng.integers(48, half))
            picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        matrix = _to_output(picture.shape[0], faces.margin, size, _placement(faces, jitter, rng))
        row[:] = cv2.warpAffine(
            picture, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    if jitter is not None:
        _recolour(out, jitter, rng)
    return out


def _placement(faces: FaceSet, jitter: Jitter | None, rng: np.random.Generator) -> np.ndarray:
    """[3, 3] map of the unit square of the crop to that of the output."""
    if jitter is None:
        return np.eye(3)
    scale = np.exp(rng.normal(0, jitter.scale)) * rng.uniform(*faces.zoom)
    angle = np.radians(rng.normal(0, jitter.turn))
    flip = -1 if rng.random() < 0.5 else 1
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[flip * cos, -flip * sin], [sin, cos]])
    centre = 0.5 + rng.normal(0, 1, 2) * jitter.shift
    return np.block([[turn, (centre - turn @ (0.5, 0.5))[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def _to_output(side: int, margin: float, size: int, placement: np.ndarray) -> np.ndarray:
    """[3, 3] map of picture pixels to output pixels, both with centres at integers."""
    step = (1 + 2 * margin) / side
    to_unit = np.array([[step, 0, step / 2 - margin], [0, step, step / 2 - margin], [0, 0, 1]])
    from_unit = np.array([[size, 0, -0.5], [0, size, -0.5], [0, 0, 1]])
    return from_unit @ placement @ to_unit


def _recolour(crops: np.ndarray, jitter: Jitter, rng: np.random.Generator) -> None:
    """In place: contrast and brightness, a colour cast, grey, a covered rectangle."""
    import cv2

    size = crops.shape[1]
    for crop in crops:
        grey = rng.random() < jitter.grey
        if grey:
            crop[:] = np.rint(crop @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
        gain = rng.uniform(0.7, 1.3) * (np.ones(3) if grey else rng.normal(1, 0.05, 3))
        offset = rng.uniform(-25, 25) + 127.5 * (1 - gain)
        levels = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
        cv2.LUT(crop, levels[None], dst=crop)
        if rng.random() < jitter.erase:
            height, width = (int(size * rng.uniform(0.1, 0.35)) for _ in range(2))
            y, x = rng.integers(0, size - height), rng.integers(0, size - width)
            crop[y : y + height, x : x + width] = rng.integers(0, 256, 3)
