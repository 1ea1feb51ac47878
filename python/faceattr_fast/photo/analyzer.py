"""From photos to faces: decode, detect, align, one batch through the network, typed results."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from .alignment import DEFAULT_TEMPLATE, CropTemplate, align, crop_box
from .detectors import Detection, Detector, find_detector
from .image import ImageSource, fit_square, load_image
from .results import Face, Failure, interpret

if TYPE_CHECKING:
    from ..spec import NetworkSpec

__all__ = ["SENSITIVE_HEADS", "SENSITIVE_LIMITS", "FaceAnalyzer"]

logger = logging.getLogger(__name__)

OnError = Literal["raise", "record"]

SENSITIVE_HEADS = ("emotion", "ethnicity")
SENSITIVE_LIMITS = (
    "Emotion and ethnicity say how a face looks in one picture, not what a person feels or comes from; their errors "
    "differ between groups of people. Do not use them for decisions about people (hiring, credit, policing, access, "
    "insurance), for surveillance, or on children. In the EU, inferring emotions at work or in education, and "
    "categorising people by race from their faces, are prohibited practices (AI Act, Article 5)."
)
"""Said wherever these heads answer or are measured."""
_notice_lock = threading.Lock()
_notice_given = False

# Faces of several photos share a batch up to this many: enough to fill the network, little enough to wait for.
_BATCH = 32


class Network(Protocol):
    """What the analyzer uses of a :class:`FastForward`."""

    @property
    def spec(self) -> NetworkSpec: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def heads(self) -> Sequence[str]: ...
    def __call__(self, pixels: NDArray[np.uint8]) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A photo's faces before the network: as many crops as detections."""

    detections: list[Detection]
    crops: list[NDArray[np.uint8]]


class FaceAnalyzer:
    """Finds the faces in photos and says what the network makes of each.

    May be shared between threads; on the CPU results do not depend on which faces share a batch. Usually made by
    :meth:`load`.

    Args:
        fast: a :class:`FastForward`, whose outputs decide what the results hold.
        detector: see :class:`Detector`.
        template: how faces are cropped. None: the rule that the weights file carries.
        sensitive: must be True for a network that computes emotion or ethnicity.

    Raises:
        ValueError: a sensitive head without ``sensitive=True``; a template of another size than the network's input.
    """

    def __init__(
        self, fast: Network, detector: Detector, template: CropTemplate | None = None, sensitive: bool = False
    ) -> None:
        computed = [name for name in SENSITIVE_HEADS if name in fast.heads]
        if computed and not sensitive:
            raise ValueError(f"the network computes {' and '.join(computed)}: leave that out or pass sensitive=True")
        if template is None:
            crop = fast.metadata.get("crop")
            template = DEFAULT_TEMPLATE if crop is None else CropTemplate.from_dict(crop)
        if template.size != fast.spec.pixels.size:
            raise ValueError(f"the crop template makes {template.size} px, the network reads {fast.spec.pixels.size}")
        if computed:
            _give_notice()
        self.fast, self.detector, self.template = fast, detector, template

    @classmethod
    def load(
        cls,
        weights: str | PathLike[str] | None = None,
        sensitive: bool = False,
        detector: str | Detector = "auto",
        detector_model: str | PathLike[str] | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        threads: int | None = None,
        heads: Sequence[str] | None = None,
    ) -> FaceAnalyzer:
        """Load weights and a detector.

        Args:
            weights: weights file; None: the demonstration weights of the package.
            sensitive: also compute emotion and ethnicity. Without it they are left out of the network and are None.
            detector: ``"auto"``, ``"yunet"``, ``"haar"`` or an object, see :func:`find_detector`.
            detector_model: YuNet's model file.
            device, dtype, threads: as for :meth:`FastForward.load`.
            heads: outputs wanted, ``"embedding"`` among them; None: the embedding and every head that is allowed.

        Raises:
            ValueError: a sensitive head is listed without ``sensitive=True``.
            WeightsError, DeviceError, DetectorError, FileNotFoundError: a part is damaged or not there.
        """
        from ..forward import FastForward
        from ..weights import read_spec, shipped_weights

        path = shipped_weights() if weights is None else weights
        if heads is not None and not isinstance(heads, (str, bytes)):
            heads = tuple(heads)  # an iterator can be read once
        if heads is None and not sensitive:
            heads = ["embedding", *(h.name for h in read_spec(path).heads if h.name not in SENSITIVE_HEADS)]
        elif heads is not None and not sensitive and not set(heads).isdisjoint(SENSITIVE_HEADS):
            raise ValueError(f"heads {list(heads)} hold {' or '.join(SENSITIVE_HEADS)}, which need sensitive=True")
        found = find_detector(detector, detector_model)
        fast = FastForward.load(path, device=device, dtype=dtype, heads=heads, threads=threads)
        return cls(fast, found, sensitive=sensitive)

    @overload
    def predict(self, source: ImageSource, on_error: OnError = "raise") -> list[Face]: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, source: Iterable[ImageSource], on_error: Literal["raise"] = "raise") -> list[list[Face]]: ...
    @overload
    def predict(self, source: Iterable[ImageSource], on_error: OnError) -> list[list[Face] | Failure]: ...
    def predict(self, source: Any, on_error: OnError = "raise") -> Any:
        """Faces of a photo, or of each of several.

        Args:
            source: one photo, or an iterable of them. A photo is a path, the bytes of a file, an RGB array or a Pillow
                image (:func:`load_image`). Pictures are opened one after another, so a generator may be long.
            on_error: what a photo of several that cannot be read does: ``raise`` its error, or ``record`` it, a
                :class:`Failure` in its place. A single photo always raises.

        Returns:
            One photo: its faces, largest first; an empty list if there are none. Several: a list of such lists.

        Raises:
            ImageError, OSError, TypeError, ValueError: the photo, see :func:`load_image`.
        """
        if _is_single(source):
            return next(self.stream([source]))
        return list(self.stream(source, on_error))

    def stream(self, sources: Iterable[ImageSource], on_error: OnError = "raise") -> Iterator[list[Face] | Failure]:
        """The same for several photos, one result after another, in order; a few photos are read ahead."""
        if on_error not in ("raise", "record"):
            raise ValueError(f"on_error must be 'raise' or 'record', got {on_error!r}")
        if _is_single(sources):
            raise TypeError(f"sources must be an iterable of photos, got one {type(sources).__name__}")
        return self._stream(sources, on_error)

    def predict_crops(self, crops: Iterable[ImageSource]) -> list[Face]:
        """Answers for faces that are cropped already, in the framing of the crop template: no detector is used.

        Args:
            crops: pictures of any size as for :meth:`predict`, RGB or grey, or one uint8 array [N, H, W, 3]. They are
                resized to the network's input; what is not square gets its border repeated.

        Returns:
            One face per crop, without box, landmarks and score.

        Raises:
            ImageError, OSError, TypeError, ValueError: a crop that cannot be read.
        """
        if _is_single(crops) and not (isinstance(crops, np.ndarray) and crops.ndim == 4):
            raise TypeError("crops must be a list of pictures or one array [N, H, W, 3]; put a single crop into a list")
        size = self.template.size
        faces: list[Face] = []
        waiting: list[NDArray[np.uint8]] = []
        for crop in crops:
            waiting.append(fit_square(load_image(crop), size))
            if len(waiting) == _BATCH:
                faces += self._faces([None] * _BATCH, waiting)
                waiting = []
        return faces + self._faces([None] * len(waiting), waiting)

    def crops(self, source: ImageSource) -> NDArray[np.uint8]:
        """The faces of one photo as the network reads them: found and cropped as :meth:`predict` does it.

        Returns:
            uint8 [n, S, S, 3], largest face first; n is 0 where there is none.

        Raises:
            ImageError, OSError, TypeError, ValueError: the photo, see :func:`load_image`.
        """
        crops = self._prepare(source).crops
        size = self.template.size
        return np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8)

    def _stream(self, sources: Iterable[ImageSource], on_error: OnError) -> Iterator[list[Face] | Failure]:
        waiting: list[_Prepared | Failure] = []
        crops = 0
        for source in sources:
            try:
                photo = self._prepare(source)
            except Exception as error:  # whatever it is, it concerns this photo alone
                if on_error == "raise":
                    raise
                waiting.append(Failure(_describe(source), error))
            else:
                waiting.append(photo)
                crops += len(photo.crops)
            if crops >= _BATCH or len(waiting) >= _BATCH:
                yield from self._finish(waiting)
                waiting, crops = [], 0
        yield from self._finish(waiting)

    def _prepare(self, source: ImageSource) -> _Prepared:
        image = load_image(source)
        detections = sorted(self.detector.detect(image), key=lambda found: -found.box[2] * found.box[3])
        return _Prepared(detections, [self._crop(image, detection) for detection in detections])

    def _crop(self, image: NDArray[np.uint8], detection: Detection) -> NDArray[np.uint8]:
        if detection.landmarks is None:
            return crop_box(image, detection.box, self.template)
        return align(image, detection.landmarks, self.template)

    def _finish(self, photos: list[_Prepared | Failure]) -> Iterator[list[Face] | Failure]:
        prepared = [photo for photo in photos if isinstance(photo, _Prepared)]
        faces = iter(
            self._faces(
                [detection for photo in prepared for detection in photo.detections],
                [crop for photo in prepared for crop in photo.crops],
            )
        )
        for photo in photos:
            yield photo if isinstance(photo, Failure) else [next(faces) for _ in photo.detections]

    def _faces(self, detections: Sequence[Detection | None], crops: list[NDArray[np.uint8]]) -> list[Face]:
        if not crops:
            return []
        outputs = {name: np.asarray(rows) for name, rows in self.fast(np.stack(crops)).items()}
        return [
            _face(self.fast.spec, detection, {name: rows[i] for name, rows in outputs.items()})
            for i, detection in enumerate(detections)
        ]


def _face(spec: NetworkSpec, detection: Detection | None, outputs: dict[str, NDArray[np.float32]]) -> Face:
    embedding = outputs.get("embedding")
    attributes = interpret(spec, outputs)
    if embedding is not None:
        embedding = embedding.copy()  # a view would keep the whole batch alive
    if detection is None:
        return Face(None, None, None, "given", attributes, embedding)
    crop: Literal["landmarks", "box"] = "box" if detection.landmarks is None else "landmarks"
    return Face(detection.box, detection.landmarks, detection.score, crop, attributes, embedding)


def _is_single(source: Any) -> bool:
    return not isinstance(source, Iterable) or isinstance(
        source, (str, bytes, bytearray, memoryview, PathLike, np.ndarray)
    )


def _describe(source: Any) -> str:
    return fspath(source) if isinstance(source, (str, PathLike)) else type(source).__name__


def _give_notice() -> None:
    global _notice_given
    with _notice_lock:
        if not _notice_given:
            _notice_given = True
            logger.warning(SENSITIVE_LIMITS)
