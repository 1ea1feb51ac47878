"""What the network says about a face, as typed results: from logits to labels, probabilities and abstentions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..spec import HeadSpec, NetworkSpec, years_of_label
from .detectors import Box

__all__ = ["Attribute", "Face", "Failure", "interpret", "probabilities", "similarity"]

_SIGMOID_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Attribute:
    """One head's answer about one face: how it looks in this picture, not what the person is or feels.

    Args:
        label: the most probable class that had training data and reaches its threshold; None if there is none.
        score: the label's probability, or the best one below its threshold when there is no label; 0..1.
        probabilities: label to probability, in label order. Softmax heads sum to 1 over the classes that had training
            data; a class without is 0.
        abstained: no class qualified, so there is no label.
        untrained: labels of the classes that had no training data: the head cannot answer with them.
        years: for age: the expected value over the bins' centres, in years; None for other attributes.
    """

    label: str | None
    score: float
    probabilities: Mapping[str, float]
    abstained: bool
    untrained: tuple[str, ...] = ()
    years: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a value that is not finite becomes None."""
        plain: dict[str, Any] = {
            "label": self.label,
            "score": _finite(self.score),
            "abstained": self.abstained,
            "probabilities": {label: _finite(value) for label, value in self.probabilities.items()},
        }
        if self.untrained:
            plain["untrained"] = list(self.untrained)
        if self.years is not None:
            plain["years"] = _finite(self.years)
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face.

    Args:
        box: x, y, width, height in pixels of the upright picture; None for a crop that was given.
        landmarks: float32 [5, 2], x and y in the same pixels: eyes, nose, mouth corners, left to right in the image;
            None where the detector gives none.
        score: the detector's, 0..1; None for a crop that was given.
        crop: what the crop follows: ``landmarks`` (:func:`align`), ``box`` (:func:`crop_box`, coarser) or ``given``.
        attributes: by head name.
        embedding: float32 [320], compared by :func:`similarity`; None if it was not asked for. It is biometric data.
    """

    box: Box | None
    landmarks: NDArray[np.float32] | None
    score: float | None
    crop: Literal["landmarks", "box", "given"]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = None

    @property
    def age(self) -> Attribute | None:
        return self.attributes.get("age")

    @property
    def gender(self) -> Attribute | None:
        return self.attributes.get("gender")

    @property
    def emotion(self) -> Attribute | None:
        """None unless the analyzer was loaded with ``sensitive=True``."""
        return self.attributes.get("emotion")

    @property
    def ethnicity(self) -> Attribute | None:
        """None unless the analyzer was loaded with ``sensitive=True``."""
        return self.attributes.get("ethnicity")

    def to_dict(self, embedding: bool = False) -> dict[str, Any]:
        """Plain JSON types; the embedding only when asked for."""
        plain: dict[str, Any] = {
            "box": None if self.box is None else list(self.box),
            "landmarks": None if self.landmarks is None else self.landmarks.tolist(),
            "score": self.score,
            "crop": self.crop,
            "attributes": {name: attribute.to_dict() for name, attribute in self.attributes.items()},
        }
        if embedding and self.embedding is not None:
            plain["embedding"] = [_finite(value) for value in self.embedding.tolist()]
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """Stands in a list of results for a picture that could not be analysed (``on_error="record"``).

    Args:
        source: the path, or what kind of object was given.
        error: what was raised.
    """

    source: str
    error: Exception

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "error": f"{type(self.error).__name__}: {self.error}"}


def probabilities(head: HeadSpec, logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities of one head.

    Classes without training data are left out, not just passed over: their logits are arbitrary, and in a softmax they
    would take their share from the others.

    Args:
        head: its kind and its trained classes are read.
        logits: [..., classes].

    Returns:
        float64 [..., classes]; 0 for untrained classes, NaN where a logit is NaN (softmax: the whole row).
    """
    x = np.asarray(logits, np.float64)
    if x.shape[-1:] != (head.classes,):
        raise ValueError(f"head {head.name!r}: logits must be [..., {head.classes}], got {list(x.shape)}")
    trained = _trained(head)
    p = np.zeros_like(x)
    if not trained.any():
        return p
    x = x[..., trained]
    if head.kind == "softmax":
        with np.errstate(invalid="ignore"):  # inf - inf
            e = np.exp(x - x.max(-1, keepdims=True))
        p[..., trained] = e / e.sum(-1, keepdims=True)
    else:
        e = np.exp(-np.abs(x))  # never overflows
        p[..., trained] = np.where(x >= 0, 1.0, e) / (1.0 + e)
    return p


def qualifies(head: HeadSpec, p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which classes may be the answer, [..., classes]: those with training data that reach their threshold."""
    if head.thresholds is not None:
        thresholds = np.array(head.thresholds)
    else:
        thresholds = np.full(head.classes, _SIGMOID_THRESHOLD if head.kind == "sigmoid" else 0.0)
    return _trained(head) & (p >= thresholds)  # false for NaN


def interpret(spec: NetworkSpec, outputs: Mapping[str, ArrayLike]) -> dict[str, Attribute]:
    """Answers for one face.

    Args:
        spec: kinds, labels, thresholds and trained classes of the heads.
        outputs: head name to logits [classes]; heads that are not there are left out.

    Returns:
        head name to its answer, in the order of the spec.
    """
    return {head.name: _answer(head, outputs[head.name]) for head in spec.heads if head.name in outputs}


def similarity(a: ArrayLike, b: ArrayLike) -> float:
    """Cosine of the angle between two embeddings: near 1 for the same person, near 0 for strangers.

    Args:
        a, b: two vectors of one length, ``Face.embedding``.

    Returns:
        -1..1.

    Raises:
        TypeError: not numbers (an embedding that was not computed is None).
        ValueError: not vectors of one length, all zero, or not finite.
    """
    vectors = []
    for name, value in (("a", a), ("b", b)):
        try:
            vector = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an embedding, got {type(value).__name__}") from error
        if value is None:
            raise TypeError(f"{name} must be an embedding, got None: was 'embedding' left out of heads=?")
        if vector.ndim != 1:
            raise ValueError(f"{name} must be one embedding, a vector, got shape {list(vector.shape)}")
        length = float(np.linalg.norm(vector))
        if not math.isfinite(length) or length == 0:
            raise ValueError(f"{name} must be finite and not all zero")
        vectors.append(vector / length)
    if vectors[0].shape != vectors[1].shape:
        raise ValueError(f"embeddings must have one length, got {vectors[0].size} and {vectors[1].size}")
    return float(np.clip(vectors[0] @ vectors[1], -1.0, 1.0))


def _answer(head: HeadSpec, logits: ArrayLike) -> Attribute:
    p = probabilities(head, logits)
    if p.ndim != 1:
        raise ValueError(f"head {head.name!r}: logits of one face must be [{head.classes}], got {list(p.shape)}")
    trained, labels = _trained(head), head.class_labels
    qualified = qualifies(head, p)
    eligible = qualified if qualified.any() else trained
    best = int(np.argmax(np.where(eligible, p, -1.0)))
    return Attribute(
        label=labels[best] if qualified.any() else None,
        score=float(p[best]),
        probabilities=dict(zip(labels, p.tolist(), strict=True)),
        abstained=not qualified.any(),
        untrained=tuple(label for label, known in zip(labels, trained, strict=True) if not known),
        years=_expected_years(labels, p) if head.name == "age" and head.kind == "softmax" and trained.any() else None,
    )


def _trained(head: HeadSpec) -> NDArray[np.bool_]:
    return np.ones(head.classes, np.bool_) if head.trained is None else np.array(head.trained, np.bool_)


def _expected_years(labels: tuple[str, ...], p: NDArray[np.float64]) -> float | None:
    centres = [years_of_label(label) for label in labels]
    return None if None in centres else float(np.dot(p, np.array(centres, np.float64)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
