"""Every kind of picture becomes uint8 [H, W, 3] RGB upright, or one clear error."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from faceattr_fast.photo.image import ImageError, fit_square, load_image

ASTRONAUT = Path(__file__).parents[1] / "examples" / "astronaut.jpg"


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def png_header(width, height):
    """A PNG of this size whose pixels are missing: enough to be opened, fatal to decode."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_every_source_gives_the_same_pixels(tmp_path, colours):
    data = encoded(Image.fromarray(colours), "PNG")
    path = tmp_path / "ünïcode name.png"
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data), Image.fromarray(colours), colours):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, colours)
    assert load_image(colours) is colours
    np.testing.assert_array_equal(load_image(colours[::-1, ::2]), colours[::-1, ::2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(colours, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(colours), "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(load_image(data), np.asarray(upright))
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data))), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"\xff" * 40])
def test_damaged_exif_spoils_no_picture(colours, exif):
    data = encoded(Image.fromarray(colours), "JPEG", exif=exif)
    assert load_image(data).shape == colours.shape


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes(mode):
    picture = Image.open(ASTRONAUT).resize((32, 32))
    converted = picture.convert(mode)
    expected = np.asarray(converted.convert("RGB"))
    np.testing.assert_array_equal(load_image(converted), expected)
    if mode != "YCbCr":  # which Pillow 10 writes but cannot read
        np.testing.assert_array_equal(load_image(encoded(converted, "TIFF")), expected)


def test_cmyk_jpeg_keeps_its_colours():
    picture = Image.open(ASTRONAUT)
    loaded = load_image(encoded(picture.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(loaded.astype(int) - np.asarray(picture)).mean() < 4


def test_transparent_parts_become_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = 10, 20, 30, 255
    rgba[1] = 10, 20, 30, 0
    rgba[1, 2] = 0, 0, 0, 128
    expected = np.array([[[10, 20, 30]] * 3, [[255] * 3, [255] * 3, [127] * 3]])
    for source in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), "PNG")):
        np.testing.assert_array_equal(load_image(source), expected)
    grey = Image.fromarray(rgba[:, :, [0, 3]], "LA")
    assert load_image(encoded(grey, "PNG"))[1, 0].tolist() == [255] * 3
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(load_image(encoded(palette, "PNG", transparency=0)), [[[255] * 3, [50, 60, 70]]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    expected = np.round(values / 257).astype(np.uint8)[:, :, None].repeat(3, 2)
    if kind == "PPM":
        data = b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(values), kind)
    np.testing.assert_array_equal(load_image(data), expected)
    np.testing.assert_array_equal(load_image(values), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_fixed_range_are_refused(dtype):
    data = encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    with pytest.raises(ImageError, match="32-bit"):
        load_image(data)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(data), np.full((4, 4, 3), [255, 0, 0]))


def test_pixel_limit_is_checked_before_decoding(tmp_path):
    path = tmp_path / "wide.png"
    path.write_bytes(png_header(8_001, 8_000))
    with pytest.raises(ImageError, match=r"wide\.png: 8001 x 8000 pixels, the limit is 64000000"):
        load_image(path)
    with pytest.raises(ImageError, match="damaged"):  # at the limit it is decoded
        load_image(png_header(100, 100), max_pixels=10_000)
    with pytest.raises(ImageError, match="the limit is 9999"):
        load_image(png_header(100, 100), max_pixels=9_999)
    with pytest.raises(ImageError, match="limit"):
        load_image(Image.new("1", (200, 200)), max_pixels=100)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_500, 50_000])  # where Pillow warns, and where it refuses
def test_decompression_bomb(side):
    with pytest.raises(ImageError, match="64000000"):
        load_image(png_header(side, side))


def test_damaged_data(tmp_path):
    whole = ASTRONAUT.read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg: damaged picture: .*truncated"):
        load_image(path)
    for data in (b"", b"no picture", whole[:20], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(ImageError, match=f"picture of {len(data)} bytes"):
            load_image(data)
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(OSError):  # noqa: PT011 - IsADirectoryError or PermissionError, by platform
        load_image(tmp_path)


SMALL = {
    kind: encoded(Image.open(ASTRONAUT).resize((40, 40)), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore")
@given(kind=st.sampled_from(sorted(SMALL)), data=st.data())
def test_mutated_files_raise_only_image_errors(kind, data):
    mutated = bytearray(SMALL[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    mutated = mutated[: data.draw(st.integers(len(mutated) // 2, len(mutated)))]
    try:
        loaded = load_image(mutated, max_pixels=1_000_000)
    except ImageError:
        return
    assert loaded.dtype == np.uint8
    assert loaded.shape[2] == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool, np.int8, np.int64, object])
def test_arrays_of_unclear_range(dtype):
    with pytest.raises(TypeError, match="uint8 or uint16"):
        load_image(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((3, 8, 8), "channels come last"), ((2, 8, 8, 3), "as a list"), ((8,), ""), ((8, 8, 2), ""), ((0, 8, 3), "")],
)
def test_arrays_of_another_shape(shape, hint):
    with pytest.raises(ValueError, match=f"got .*{hint}"):
        load_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("source", [None, 3, 2.5, ["a.jpg"]])
def test_other_sources(source):
    with pytest.raises(TypeError, match="a path, bytes"):
        load_image(source)


def test_fit_square():
    tall = np.zeros((20, 10, 3), np.uint8)
    tall[:, 0], tall[:, -1] = 100, 200
    fitted = fit_square(tall, 40)
    assert fitted.shape == (40, 40, 3)
    assert (fitted[:, :10] == 100).all()
    assert (fitted[:, -10:] == 200).all()
    assert fit_square(fitted, 40) is fitted
    for shape in ((1, 1, 3), (1, 500, 3), (48, 48, 3)):
        assert fit_square(np.full(shape, 7, np.uint8), 224).tolist() == np.full((224, 224, 3), 7).tolist()
