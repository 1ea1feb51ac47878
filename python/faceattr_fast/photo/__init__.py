"""Photos in, typed faces out: pictures, detectors, alignment, results. Imports OpenCV and Pillow only when used."""

from .alignment import DEFAULT_TEMPLATE, CropTemplate, align, crop_box
from .analyzer import SENSITIVE_HEADS, SENSITIVE_LIMITS, FaceAnalyzer
from .detectors import Detection, Detector, DetectorError, HaarDetector, YuNetDetector, find_detector
from .draw import annotate
from .image import ImageError, fit_square, load_image
from .results import Attribute, Face, Failure, interpret, probabilities, similarity

__all__ = [
    "DEFAULT_TEMPLATE",
    "SENSITIVE_HEADS",
    "SENSITIVE_LIMITS",
    "Attribute",
    "CropTemplate",
    "Detection",
    "Detector",
    "DetectorError",
    "Face",
    "FaceAnalyzer",
    "Failure",
    "HaarDetector",
    "ImageError",
    "YuNetDetector",
    "align",
    "annotate",
    "crop_box",
    "find_detector",
    "fit_square",
    "interpret",
    "load_image",
    "probabilities",
    "similarity",
]
