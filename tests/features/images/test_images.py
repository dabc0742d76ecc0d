"""One file → upright RGB uint8 of the asked size, or the reason why not."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from features.errors import RequestError, UnreadableImage
from features.images.decoding import RESIZE, decode, decode_whole, read_bytes
from features.images.image_spec import SMOOTH, ImageSpec


def encode(pixels, mode=None, file_format="PNG", **options):
    """Return an image file's bytes."""
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(data, file_format, **options)
    return data.getvalue()


@pytest.fixture
def pixels():
    """A gradient of 6 x 6 that no turn or flip leaves as it is, (6, 6, 3) uint8."""
    return np.arange(108, dtype=np.uint8).reshape(6, 6, 3) * 2


def test_rgb_is_unchanged_at_its_own_size(pixels):
    np.testing.assert_array_equal(decode(encode(pixels), ImageSpec(6)), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(pixels, orientation):
    # What a camera stores for an upright scene, by the definitions of Exif 2.3 for "0th row" and "0th column".
    stored = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels), 7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encode(np.ascontiguousarray(stored), exif=exif), ImageSpec(6)), pixels)


@pytest.mark.parametrize("resize", RESIZE)
def test_grey_is_as_three_equal_channels(resize):
    grey = np.random.default_rng(0).integers(0, 256, (31, 23)).astype(np.uint8)
    for size in (7, 40):
        found = decode(encode(grey), ImageSpec(size, resize))
        np.testing.assert_array_equal(found, decode(encode(np.stack([grey] * 3, axis=2)), ImageSpec(size, resize)))


def test_16_bit_grey_is_scaled_not_clipped():
    grey = np.linspace(0, 65535, 36).astype(np.uint16).reshape(6, 6)
    decoded = decode(encode(grey), ImageSpec(6))
    np.testing.assert_array_equal(decoded, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_float_in_0_to_1_is_scaled_and_other_floats_are_refused():
    values = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6)
    assert decode(encode(values, file_format="TIFF"), ImageSpec(6)).max() == 255
    with pytest.raises(UnreadableImage, match="no agreed range"):
        decode(encode(values * 300, file_format="TIFF"), ImageSpec(6))


def test_alpha_is_dropped_not_composited(pixels):
    rgba = np.dstack([pixels, np.zeros((6, 6), np.uint8)])
    np.testing.assert_array_equal(decode(encode(rgba), ImageSpec(6)), pixels)


def test_bilinear_is_antialiased_and_nearest_is_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert abs(int(decode(encode(stripes), ImageSpec(8))[4, 4, 0]) - 100) <= 2
    assert decode(encode(stripes), ImageSpec(8, "nearest"))[4, 4, 0] in (0, 200)


def test_unknown_resize_names_the_nearest(pixels):
    with pytest.raises(RequestError, match="Did you mean 'bilinear'"):
        decode(encode(pixels), ImageSpec(6, "bilnear"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "no image in one of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image in one of the formats"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data, ImageSpec(8))


def test_a_palette_image_without_palette_is_refused():
    """Pillow loads it and fails as it looks colours up: with an AssertionError, which ended whole passes."""
    data = encode(np.zeros((2, 2), np.uint8), "P")
    start = data.index(b"PLTE") - 4
    without = data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4]) :]
    for read in (decode, decode_whole):
        with pytest.raises(UnreadableImage, match="broken: AssertionError"):
            read(without, ImageSpec(8))


def test_truncated_file_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(noise, file_format="JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(whole[: len(whole) // 2], ImageSpec(8))


def photo(height, width, seed=0):
    """Return what a photo is like: detail of all sizes, each of them as strong (1/f), and hard edges: (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    away = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    noise = np.fft.rfft2(random.normal(size=(3, height, width))) / away
    pixels = np.fft.irfft2(noise, (height, width)).transpose(1, 2, 0)
    pixels[height // 3 : height // 2, width // 5 : width // 2] += pixels.std()
    return (128 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8)


# Sides that no reduction divides, so that a last row and column lie partly outside the photo.
PHOTO, SIDE = photo(757, 1003), 40
JPEGS = {
    "usual": {}, "progressive": {"progressive": True}, "fine colours": {"subsampling": 0}, "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"}, "of two frames": {"file_format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (1003, 757))]},
}  # fmt: skip


def differences(data, size, resize="bilinear"):
    """Return how far scaled decoding is from full decoding, in levels of 255."""
    return np.abs(decode(data, ImageSpec(size, resize, "scaled")).astype(int) - decode(data, ImageSpec(size, resize)))


@pytest.mark.parametrize("resize", SMOOTH)
@pytest.mark.parametrize("kind", JPEGS)
def test_scaled_decoding_differs_by_few_levels(kind, resize):
    seen = differences(encode(PHOTO, **{"file_format": "JPEG", "quality": 90, **JPEGS[kind]}), SIDE, resize)
    assert 0 < seen.mean() < 0.9 and seen.max() <= 8


@pytest.mark.parametrize("size", [224, 160])
def test_scaled_decoding_of_real_photos_differs_by_few_levels(shared, size):
    """Photos of twelve megapixels: enlarged, and 64 beside each other, whose detail is finer than an enlarged photo's."""
    files = sorted((shared / "photos/cats_and_dogs/test").rglob("*.jpg"))[::3][:64]
    photos = [Image.open(file).convert("RGB") for file in files]
    many = Image.new("RGB", (4032, 3024))
    for number, each in enumerate(photos):
        many.paste(each.resize((504, 378)), (number % 8 * 504, number // 8 * 378))
    for large, mean, most in ((photos[0].resize((4032, 3024)), 0.3, 4), (many, 0.8, 9)):
        seen = differences(encode(np.asarray(large), file_format="JPEG", quality=90), size)
        assert 0 < seen.mean() < mean and seen.max() <= most


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_decoding_turns_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(PHOTO, file_format="JPEG", quality=90, exif=exif)
    seen = differences(data, SIDE)
    assert 0 < seen.mean() < 0.75 and seen.max() <= 6


def test_scaled_decoding_starts_at_four_times_the_side():
    data = encode(photo(4 * 60, 4 * 60 + 50), file_format="JPEG")
    assert differences(data, 60).any() and not differences(data, 61).any()  # in both directions
    assert not differences(encode(PHOTO), SIDE).any()  # no JPEG


@pytest.mark.parametrize("resize", sorted(RESIZE.keys() - set(SMOOTH)))
def test_scaled_decoding_needs_a_smooth_rule(resize):
    with pytest.raises(RequestError, match=f"decode must be full with resize {resize}; got scaled"):
        decode(encode(PHOTO, file_format="JPEG"), ImageSpec(SIDE, resize, "scaled"))
    with pytest.raises(RequestError, match=r"decode must be one of full, scaled; got 'ful'. Did you mean 'full'"):
        decode(b"", ImageSpec(SIDE, resize, "ful"))


def test_scaled_decoding_refuses_what_full_decoding_refuses():
    data = encode(PHOTO, file_format="JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(data[: len(data) // 2], ImageSpec(SIDE, decode="scaled"))
    start = data.index(b"\xff\xc0") + 5  # height and width, each two bytes, in the frame's header
    bomb = data[:start] + (25_001).to_bytes(2) + (10_000).to_bytes(2) + data[start + 4 :]
    with pytest.raises(UnreadableImage, match=r"10000 x 25001 pixels; refused .* since at most 250,000,000 are read"):
        decode(bomb, ImageSpec(SIDE, decode="scaled"))


def test_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_bytes(tmp_path / "pipe.png")


def test_hostile_files_get_their_outcomes(shared, tmp_path):
    subprocess.run([sys.executable, shared / "hostile/make_extra.py", tmp_path], check=True)
    expected = json.loads((shared / "hostile/expected.json").read_text(encoding="utf-8"))
    for entry in expected:
        path = tmp_path / entry["path"]
        if entry["outcome"] == "ignore":
            continue  # which files are considered is for tests of sources
        try:
            decoded, outcome = decode(read_bytes(path), ImageSpec(64)), "ok"
        except UnreadableImage as error:
            decoded, outcome = str(error), "quarantine"
        assert outcome in entry.get("acceptable", [entry["outcome"]]), (entry["path"], decoded)
        if entry.get("same_as"):
            twin = decode(read_bytes(tmp_path / entry["same_as"]), ImageSpec(64))
            assert np.abs(decoded.astype(int) - twin).max() <= entry["tolerance"], entry["path"]
    shutil.rmtree(tmp_path)
