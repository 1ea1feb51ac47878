"""Pictures of every common kind to one form: uint8 [H, W, 3], RGB, upright."""

from __future__ import annotations

import io
import logging
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "ImageError", "ImageSource", "fit_square", "is_picture", "load_image"]

logger = logging.getLogger(__name__)

ImageSource: TypeAlias = Union[str, "PathLike[str]", bytes, bytearray, memoryview, "NDArray[Any]", "Image"]

MAX_PIXELS = 64_000_000
"""Largest picture that :func:`load_image` decodes by default: 64 Mpixel, 192 MB as RGB."""

# Not every format that Pillow knows: EPS, for one, would start Ghostscript on a file that came from anywhere.
# HEIF is there once the program has registered a plug-in for it (pillow-heif).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")

# What counts as a picture inside a folder; a file that is named itself may be called anything.
_SUFFIXES = frozenset(
    (
        ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg",
        ".jpg", ".mpo", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    )
)  # fmt: skip

_EXIF_ORIENTATION = 0x0112


class ImageError(ValueError):
    """A picture cannot be decoded: damaged, too large or of an unknown kind. The message names it and the reason."""


def is_picture(name: str) -> bool:
    """Whether a file that is found in a folder is one, by its name; hidden files are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a picture.

    Files and Pillow images are turned upright by their EXIF orientation; transparent parts become white; 16-bit values
    are scaled to 8 bits; of an animation the first frame is taken. CMYK is converted without colour management.

    Args:
        source: a path; the bytes of a file; an array uint8 or uint16 (full range) of shape [H, W] or [H, W, 1] (grey),
            [H, W, 3] (RGB) or [H, W, 4] (RGBA), taken as upright; or a Pillow image.
        max_pixels: larger files are refused before they are decoded.

    Returns:
        uint8 [H, W, 3], RGB, C-contiguous. An array that already has this form is returned as it is, not copied.

    Raises:
        ImageError: damaged, empty or truncated data, an unknown format, more than ``max_pixels`` pixels.
        OSError: the file cannot be opened (``FileNotFoundError``, ``PermissionError`` …).
        TypeError: another kind of source, or an array whose range of values is not clear (float, bool, int32 …).
        ValueError: an array of another shape.
        ImportError: Pillow is not installed.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'faceattr_fast[photo]'") from error

    if isinstance(source, Image.Image):
        return _from_pillow(source, "Pillow image", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), f"picture of {len(source)} bytes", max_pixels)
    if isinstance(source, (str, PathLike)):
        with Path(source).open("rb") as file:
            return _from_file(file, os.fspath(source), max_pixels)
    raise TypeError(
        f"a picture must be a path, bytes, a uint8 array [H, W, 3] or a Pillow image, got {type(source).__name__}"
    )


def fit_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a picture to a square; what is missing on the shorter side repeats the border pixels.

    Args:
        image: uint8 [H, W, 3].
        size: side in pixels.

    Returns:
        uint8 [size, size, 3]; proportions are kept. A picture that has this size is returned as it is.

    Raises:
        ImportError: OpenCV is not installed.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    try:
        import cv2
    except ImportError as error:
        raise ImportError("resizing pictures needs OpenCV: pip install 'faceattr_fast[photo]'") from error

    scale = size / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    shrinks = scale < 1
    image = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[assignment]
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    right, bottom = size - inner[0] - left, size - inner[1] - top
    return np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")


def _from_file(file: Any, name: str, max_pixels: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        with Image.open(file, formats=formats) as image:
            return _from_pillow(image, name, max_pixels)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        plug_in = ""
        if name.lower().endswith((".heic", ".heif")) and "HEIF" not in formats:
            plug_in = "; HEIF needs pillow_heif.register_heif_opener(), or a conversion"
        raise ImageError(f"{name}: empty, or no picture in a known format ({', '.join(formats)}){plug_in}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: too large (limit {max_pixels} pixels): {error}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged data
        raise ImageError(f"{name}: damaged picture: {error or type(error).__name__}") from error


def _from_pillow(image: Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width} x {height} pixels, the limit is {max_pixels}")
    if width * height == 0:
        raise ImageError(f"{name}: {width} x {height}, no pixels")
    try:
        image.load()
        pixels = _rgb_from_pillow(image, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # as above
        raise ImageError(f"{name}: damaged picture: {error or type(error).__name__}") from error
    return _upright(pixels, _orientation(image, name))


def _rgb_from_pillow(image: Image, name: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16))
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16-bit grey in these two, whatever Pillow calls it
        return _from_array(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32-bit pixels (mode {image.mode!r}) have no fixed range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        return _from_array(np.asarray(image.convert("RGBA")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image, name: str) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception as error:  # damaged EXIF spoils no picture
        logger.debug("%s: EXIF not readable, taken as upright: %s", name, error)
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """EXIF 2.3: 1 upright, 2-4 mirrored or turned by 180°, 5-8 the same with rows and columns exchanged."""
    if 5 <= orientation <= 8:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"a picture array must be uint8 or uint16 (others have no fixed range), got {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        hint = ""
        if array.ndim == 4:
            hint = "; give several pictures as a list"
        elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last"
        raise ValueError(f"a picture array must be [H, W] or [H, W, 1 | 3 | 4], got {list(array.shape)}{hint}")
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257: rounds to nearest
    if array.shape[2] == 4:
        array = _over_white(array)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[:, :, 3].astype(np.uint16)
    rgb = np.empty((*alpha.shape, 3), np.uint8)
    for channel in range(3):  # one at a time: a third of the memory, which matters for large pictures
        rgb[:, :, channel] = (rgba[:, :, channel] * alpha + 255 * (255 - alpha) + 127) // 255
    return rgb
