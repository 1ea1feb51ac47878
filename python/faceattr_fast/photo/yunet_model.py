"""YuNet's model file: where it is kept, and how it is fetched. It is known by its digest, wherever it comes from."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tempfile
import urllib.request
from pathlib import Path

from ..cache import cache_folder
from .detectors import YUNET_ENVIRONMENT, DetectorError

__all__ = ["cached_yunet", "download_yunet", "yunet_cache"]

logger = logging.getLogger(__name__)

FILE_NAME = "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{FILE_NAME}"

_MAX_BYTES = 4_000_000  # the file has 232,589; whatever answers with more is not it


def yunet_cache() -> Path:
    """Where a fetched model is kept."""
    return cache_folder() / FILE_NAME


def cached_yunet() -> bytes | None:
    """The model in the cache, or None: not there, or not the file whose digest is pinned (which is logged)."""
    try:
        path = yunet_cache()
        data = path.read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where this user's home is
        return None
    if hashlib.sha256(data).hexdigest() != SHA256:
        logger.warning("%s is not the YuNet model expected (other SHA-256) and is not used", path)
        return None
    return data


def download_yunet(url: str = URL, timeout: float = 30.0) -> Path:
    """Fetch the model (230 KB; Apache-2.0 / MIT, OpenCV Zoo) into the cache.

    Returns:
        Its path. The file appears there only once its digest has been checked.

    Raises:
        DetectorError: no network, or another file than the one whose digest is pinned.
        OSError: the cache folder cannot be written.
    """
    path = yunet_cache()
    by_hand = f"get {FILE_NAME} from OpenCV Zoo by hand and give it as detector_model= or {YUNET_ENVIRONMENT}"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            data = answer.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:  # URLError, HTTPError and time-outs are OSErrors
        raise DetectorError(f"the YuNet model could not be fetched from {url} ({error}); {by_hand}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise DetectorError(f"{url} gave another file (SHA-256 {digest}, expected {SHA256}); {by_hand}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=FILE_NAME, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    logger.info("fetched %s", path)
    return path
