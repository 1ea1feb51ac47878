"""The annotated picture: boxes, landmarks and a line of text for every face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .detectors import Box
from .image import ImageSource, load_image
from .results import Attribute, Face

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["annotate", "caption"]

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

# Smaller pictures are enlarged to this longer side: below, no text is readable.
_MIN_SIDE = 480
_MIN_TEXT = 12  # height of a line in pixels
_CAPTION_WIDTH = 1.6  # a caption is at most this many boxes wide, as far as _MIN_TEXT lets it

_LINE, _EDGE, _TEXT = (255, 214, 10), (0, 0, 0), (0, 0, 0)  # yellow with a black edge shows on any background


def annotate(image: ImageSource, faces: Sequence[Face]) -> Image:
    """Draw faces into a copy of their picture.

    Args:
        image: the picture that was analysed, in any form that :func:`load_image` reads.
        faces: the result for it; faces without a box (given crops) are left out.

    Returns:
        A Pillow image in RGB (``numpy.asarray`` makes an array of it): of the size of the upright picture, or enlarged
        by a whole number where that is too small for text.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(load_image(image))
    zoom = max(1, -(-_MIN_SIDE // max(picture.size)))
    if zoom > 1:
        picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    text_size = max(14, round(max(picture.size) / 45))
    boxes = [(face, _scaled(face.box, zoom)) for face in faces if face.box is not None]
    for face, box in boxes:
        _draw_face(draw, face, box, zoom, line=max(2, min(text_size // 8, int(box[2] - box[0]) // 30)))
    taken: list[Rectangle] = []
    for face, box in boxes:  # last, so that no box crosses a caption
        if text := caption(face):
            taken.append(_draw_caption(draw, picture.size, box, text, text_size, taken))
    return picture


def caption(face: Face) -> str:
    """``female 98%, 25-32 61%``: label and score of every attribute, ``?`` where there is no label."""
    return ", ".join(_words(name, attribute) for name, attribute in face.attributes.items())


def _words(name: str, attribute: Attribute) -> str:
    return f"{name} ?" if attribute.label is None else f"{attribute.label} {attribute.score:.0%}"


def _scaled(box: Box, zoom: int) -> Rectangle:
    x, y, width, height = (zoom * value for value in box)
    return x, y, x + width, y + height


def _draw_face(draw: ImageDraw, face: Face, box: Rectangle, zoom: int, line: int) -> None:
    edge = max(1, line // 2)
    outer = (box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge)
    draw.rectangle(outer, outline=_EDGE, width=line + 2 * edge)
    draw.rectangle(box, outline=_LINE, width=line)
    for x, y in () if face.landmarks is None else (face.landmarks + 0.5) * zoom:
        for radius, colour in ((line + edge, _EDGE), (line, _LINE)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_caption(
    draw: ImageDraw, picture: tuple[int, int], box: Rectangle, text: str, text_size: int, taken: list[Rectangle]
) -> Rectangle:
    """Write above the box, else below, else inside: wherever the line lies in the picture and on no other line."""
    from PIL import ImageFont

    # In a crowd the text shrinks with the face, so that it hides no neighbour, but stays readable.
    room = min(picture[0] - 4.0, max(_CAPTION_WIDTH * (box[2] - box[0]), 1.0))
    length = draw.textlength(text, ImageFont.load_default(text_size))
    text_size = min(text_size, max(_MIN_TEXT, int(text_size * room / length)))
    font = ImageFont.load_default(text_size)
    margin = max(1, text_size // 5)
    width, height = draw.textlength(text, font) + 2 * margin, text_size * 1.1 + 2 * margin
    left = min(max(0.0, box[0]), max(0.0, picture[0] - width))
    tops = (box[1] - height, box[3], box[1], box[3] - height)
    places = [(left, top, left + width, top + height) for top in tops if 0 <= top <= picture[1] - height]
    free = [place for place in places if not any(_overlap(place, other) for other in taken)]
    place = (free or places or [(left, 0.0, left + width, height)])[0]
    draw.rectangle(place, fill=_LINE)
    draw.text((place[0] + margin, (place[1] + place[3]) / 2), text, fill=_TEXT, font=font, anchor="lm")
    return place


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
