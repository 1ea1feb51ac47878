"""Where the faces are: one small interface, and the two detectors that OpenCV runs.

========  =====================  =========================================  ===========================
name      gives                  needs                                      crop
========  =====================  =========================================  ===========================
yunet     box, five landmarks    its model file (230 KB, not in any wheel)  ``align``, exact
haar      box                    ``opencv-python-headless<5``               ``crop_box``, coarser
========  =====================  =========================================  ===========================
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Detection", "Detector", "DetectorError", "HaarDetector", "YuNetDetector", "find_detector"]

logger = logging.getLogger(__name__)

Box = tuple[float, float, float, float]
T = TypeVar("T")

YUNET_ENVIRONMENT = "FACEATTR_YUNET"


class DetectorError(RuntimeError):
    """The detector asked for is not there; the message says how to get it."""


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face in a picture.

    Args:
        box: x, y, width, height in pixels of the picture; may reach beyond its border.
        landmarks: float32 [5, 2], x and y in pixels: eyes, nose, mouth corners, each left to right in the image of an
            upright face; None where the detector gives a box alone.
        score: 0..1, to rank and to filter; not a probability.
    """

    box: Box
    landmarks: NDArray[np.float32] | None
    score: float


@runtime_checkable
class Detector(Protocol):
    """What :class:`FaceAnalyzer` needs of a detector; any object with these two members will do.

    ``detect`` is called from several threads at once. A detector without landmarks should give boxes framed like those
    of OpenCV's Haar cascade for frontal faces (a square from the middle of the forehead to below the lower lip).
    """

    @property
    def name(self) -> str: ...

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in a picture, uint8 [H, W, 3] RGB, best score first."""
        ...


class _PerThread(threading.local, Generic[T]):
    """One native object per thread: OpenCV's detectors keep state between calls and must not be shared."""

    def __init__(self, create: Callable[[], T]) -> None:  # threading.local runs this once in every thread
        self.value = create()


class HaarDetector:
    """The frontal face cascade that OpenCV's 4.x wheels bundle: works offline, finds upright frontal faces only.

    Args:
        min_score: faces below are dropped. The default keeps about 97 % of the faces that the cascade finds on photos
            of one person and drops half of what it takes for a face wrongly.
        max_side: larger pictures are scaled down to this many pixels for detection.

    Raises:
        DetectorError: this OpenCV has no cascades (5.x); OpenCV is not installed.
    """

    name = "haar"

    def __init__(self, min_score: float = 0.6, max_side: int = 800) -> None:
        cv2 = _import_cv2()
        if not hasattr(cv2, "CascadeClassifier"):
            raise DetectorError(
                f"OpenCV {cv2.__version__} has no Haar cascades (its 5.x wheels dropped them): "
                f"pip install 'opencv-python-headless<5', or give a YuNet model (detector_model=, {YUNET_ENVIRONMENT})"
            )
        self.min_score, self.max_side = min_score, max_side
        self._cascade: _PerThread[Any] = _PerThread(_load_cascade)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.min_score, self.max_side)

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        import cv2

        small, x_scale, y_scale = _shrink(image, self.max_side)
        boxes, _, weights = self._cascade.value.detectMultiScale3(
            cv2.cvtColor(small, cv2.COLOR_RGB2GRAY),
            scaleFactor=1.1,
            minNeighbors=5,
            minSize=(max(24, max(small.shape[:2]) // 25),) * 2,
            outputRejectLevels=True,
        )
        found = []
        for (x, y, width, height), weight in zip(np.reshape(boxes, (-1, 4)), np.ravel(weights), strict=True):
            # The weight of the last stage, unbounded, through a logistic fit on photos: 0.5 near weight 1.1, 0.995 at
            # the median face.
            score = 1 / (1 + math.exp(-(0.8 * float(weight) - 0.9)))
            if score >= self.min_score:
                box = (float(x * x_scale), float(y * y_scale), float(width * x_scale), float(height * y_scale))
                found.append(Detection(box, None, score))
        return _without_duplicates(found)


class YuNetDetector:
    """YuNet through ``cv2.FaceDetectorYN``: box and five landmarks, small and turned faces too; from OpenCV 4.9 on.

    Args:
        model: its ONNX file (``face_detection_yunet_2023mar.onnx`` or another YuNet of that interface), or the bytes.
        min_score: faces below are dropped.
        max_side: larger pictures are scaled down to this many pixels for detection.

    Raises:
        FileNotFoundError: there is no such file.
        DetectorError: OpenCV cannot read the model; OpenCV is not installed.
    """

    name = "yunet"

    # YuNet misplaces faces larger than some 400 px: a second, coarse look (about 5 ms) is for close-ups.
    _COARSE_SIDE = 320
    # In pictures of 32 rows and fewer OpenCV 4.14 finds faces in memory that it never wrote; black rows help.
    _LEAST_SIDE = 64
    _OVERLAP = 0.3

    def __init__(self, model: str | PathLike[str] | bytes, min_score: float = 0.7, max_side: int = 1280) -> None:
        self._origin = "YuNet model" if isinstance(model, bytes) else os.fspath(model)
        # Bytes, not a path: OpenCV on Windows opens ASCII paths only.
        self._model = model if isinstance(model, bytes) else Path(model).read_bytes()
        self.min_score, self.max_side = min_score, max_side
        self._network: _PerThread[Any] = _PerThread(self._load)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model, self.min_score, self.max_side)

    def _load(self) -> Any:
        cv2 = _import_cv2()
        model, no_config = np.frombuffer(self._model, np.uint8), np.zeros(0, np.uint8)
        try:
            return cv2.FaceDetectorYN.create("onnx", model, no_config, (320, 320), self.min_score, self._OVERLAP, 5000)
        except (cv2.error, AttributeError) as error:
            raise DetectorError(f"{self._origin}: OpenCV {cv2.__version__} cannot read it as YuNet: {error}") from error

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        found = self._look(image, self.max_side)
        if max(image.shape[:2]) > self._COARSE_SIDE:
            found += self._look(image, self._COARSE_SIDE)
        return _without_duplicates(found)

    def _look(self, image: NDArray[np.uint8], side: int) -> list[Detection]:
        import cv2

        small, x_scale, y_scale = _shrink(image, side)
        missing = [max(0, self._LEAST_SIDE - length) for length in small.shape[:2]]
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        if any(missing):
            bgr = cv2.copyMakeBorder(bgr, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
        network = self._network.value
        network.setInputSize(bgr.shape[1::-1])
        rows = network.detect(bgr)[1]  # [n, 15]: box, five points, score
        found = []
        scale = np.array([x_scale, y_scale])
        for row in () if rows is None else np.asarray(rows, np.float64):
            x, y, box_width, box_height = (row[:4].reshape(2, 2) * scale).ravel().tolist()
            # Pixel centres are at integers, so points scale about the corner half a pixel away. YuNet's order is the
            # documented one already: the person's right side, which is left in the image, comes first.
            landmarks = ((row[4:14].reshape(5, 2) + 0.5) * scale - 0.5).astype(np.float32)
            found.append(Detection((x, y, box_width, box_height), landmarks, float(row[14])))
        return found


class NoDetector:
    """Stands where the pictures are cropped faces: no detector has to be there for them."""

    name = "none"

    def detect(self, image: Any) -> list[Detection]:
        raise RuntimeError("these pictures are crops: they need no detector")


def find_detector(detector: str | Detector = "auto", model: str | PathLike[str] | None = None) -> Detector:
    """A detector by name.

    Args:
        detector: ``"auto"``: YuNet if its model is at hand, else Haar; ``"haar"``; ``"yunet"``, which fetches its model
            where it is not at hand; or a detector, which is returned as it is.
        model: YuNet's model file. None: the file that the environment variable ``FACEATTR_YUNET`` names, else the one
            in the cache folder (``FACEATTR_CACHE``), if its digest is right.

    Raises:
        ValueError: an unknown name; ``model`` given for another detector than YuNet.
        TypeError: an object without ``detect``.
        FileNotFoundError: the model named is not there.
        DetectorError: the detector is not available; the message says how to get it.
    """
    if not isinstance(detector, str):
        if not callable(getattr(detector, "detect", None)):
            raise TypeError(f"a detector needs a method detect(image), {type(detector).__name__} has none")
        chosen = detector
    elif detector == "haar":
        chosen = HaarDetector()
    elif detector in ("auto", "yunet"):
        from .yunet_model import cached_yunet, download_yunet

        source = model or os.environ.get(YUNET_ENVIRONMENT) or cached_yunet()
        if source is None and detector == "yunet":
            source = download_yunet()
        chosen = HaarDetector() if source is None else YuNetDetector(source)
    else:
        raise ValueError(f"detector must be 'auto', 'haar', 'yunet' or an object, got {detector!r}")
    if model is not None and not isinstance(chosen, YuNetDetector):
        raise ValueError(f"detector_model is YuNet's model file, detector {detector!r} has no use for it")
    logger.info("face detector: %s", getattr(chosen, "name", type(chosen).__name__))
    return chosen


def _import_cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DetectorError("finding faces needs OpenCV: pip install 'faceattr_fast[photo]'") from error
    return cv2


def _load_cascade() -> Any:
    cv2 = _import_cv2()
    path = os.path.join(cv2.data.haarcascades, "haarcascade_frontalface_default.xml")
    cascade = cv2.CascadeClassifier(path)
    if cascade.empty():
        raise DetectorError(f"OpenCV {cv2.__version__} cannot load its cascade {path}")
    return cascade


def _shrink(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float, float]:
    """The picture with its longer side at most ``side``, and the factors that take coordinates back."""
    import cv2

    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image, 1.0, 1.0
    small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, (small_width, small_height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), width / small_width, height / small_height


def _without_duplicates(found: list[Detection]) -> list[Detection]:
    """Best score first; a box that shares over half of the smaller area with a better one is the same face."""
    kept: list[Detection] = []
    # The box breaks ties: OpenCV's own threads may report in any order.
    for detection in sorted(found, key=lambda one: (-one.score, one.box)):
        if all(_shared(detection.box, other.box) < 0.5 for other in kept):
            kept.append(detection)
    return kept


def _shared(a: Box, b: Box) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min(a[2] * a[3], b[2] * b[3])
