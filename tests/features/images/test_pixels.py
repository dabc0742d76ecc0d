"""Colours, transparency and values of more than 8 bits, and formats that endings do not tell."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from features.errors import RequestError, UnreadableImage
from features.images.decoding import decode, upright
from features.images.formats import EXTENSIONS, HEAD, format_of, why_no_image
from features.images.image_spec import ImageSpec
from features.images.survey import Survey

SIDE = 8


def saved(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def flat(colour, mode="RGB"):
    return Image.new(mode, (SIDE, SIDE), colour)


def profile(red, green, blue):
    """Return the profile of an RGB space by its primaries in xy, D65 and gamma 2.2, as lcms writes it."""
    # lcms builds it from sRGB's own profile, whose primaries and curves are replaced in the tags' bytes below.
    base = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag, xyz in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue)):
        at = base.index(tag) + 4
        offset = int.from_bytes(base[at : at + 4], "big")
        for number, value in enumerate(xyz):
            place = offset + 8 + 4 * number
            base[place : place + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    at = int.from_bytes(base[base.index(b"desc") + 4 :][:4], "big")
    text = bytes(base[at : at + 200])
    name = "sRGB built-in".encode("utf-16-be")
    assert name in text
    base[at : at + 200] = text.replace(name, "Wide built-in"[: len(name) // 2].encode("utf-16-be"))
    return bytes(base)


# Display P3's primaries, adapted to D50 (as in Apple's profile; also SMPTE EG 432-1).
P3 = profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def test_colours_become_srgb_by_the_files_profile():
    # The P3 colour (234, 51, 35) is sRGB's red (255, 0, 0): CSS Color 4, section 10.4 (color(display-p3 0.9176 0.2003 0.1386)).
    data = saved(flat((234, 51, 35)), icc_profile=P3)
    assert decode(data, ImageSpec(SIDE))[0, 0].tolist() == [234, 51, 35]  # as before it was a setting
    np.testing.assert_allclose(decode(data, ImageSpec(SIDE, colour="srgb"))[0, 0], [255, 0, 0], atol=4)
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(
        upright(opened, ImageSpec(SIDE, colour="srgb")), decode(data, ImageSpec(SIDE, colour="srgb"))
    )


def test_srgb_itself_broken_profiles_and_those_of_other_pixels_change_nothing():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image, held in ((flat((234, 51, 35)), own), (flat((234, 51, 35)), b"broken"), (flat(77, "L"), P3)):
        data = saved(image, icc_profile=held)
        plain = decode(data, ImageSpec(SIDE))
        np.testing.assert_array_equal(decode(data, ImageSpec(SIDE, colour="srgb")), plain)


@pytest.mark.parametrize(
    "image",
    [flat((0, 0, 0, 0), "RGBA"), flat((0, 0), "LA"), flat((9, 9, 9, 0), "RGBA").quantize(4)],
    ids=["RGBA", "LA", "P"],
)
def test_what_is_behind_transparent_pixels_is_a_setting(image):
    data = saved(image)
    assert decode(data, ImageSpec(SIDE)).max() <= 9
    assert decode(data, ImageSpec(SIDE, background="white")).min() == 255
    assert decode(data, ImageSpec(SIDE, background="#0a141e"))[0, 0].tolist() == [10, 20, 30]


def test_a_colour_that_is_transparent_by_name_is_composited():
    data = saved(flat((7, 8, 9)), transparency=(7, 8, 9))
    assert decode(data, ImageSpec(SIDE, background="white")).min() == 255
    data = saved(flat(7, "L"), transparency=7)
    assert decode(data, ImageSpec(SIDE, background="white")).min() == 255


def test_half_transparent_pixels_are_mixed():
    data = saved(flat((0, 0, 0, 128), "RGBA"))
    np.testing.assert_allclose(decode(data, ImageSpec(SIDE, background="white"))[0, 0], 127, atol=1)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_the_range_says_which_values_are_black_and_white(file_format):
    values = np.linspace(0, 4095, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    data = saved(Image.fromarray(values), file_format)
    assert decode(data, ImageSpec(SIDE)).max() == 15  # 4095 >> 8, as before it was a setting
    np.testing.assert_array_equal(decode(data, ImageSpec(SIDE, range="12-bit"))[..., 0], values >> 4)
    window = decode(data, ImageSpec(SIDE, range="1000:2000"))[..., 0]
    np.testing.assert_array_equal(window, np.rint((values.astype(float).clip(1000, 2000) - 1000) / 1000 * 255))
    with pytest.raises(UnreadableImage, match="values up to 4095 do not fit into the range 10-bit"):
        decode(data, ImageSpec(SIDE, range="10-bit"))


def test_floats_and_long_integers_are_read_where_their_range_is_named():
    for values in (np.full((SIDE, SIDE), 500.0, np.float32), np.full((SIDE, SIDE), 500, np.int32)):
        data = saved(Image.fromarray(values), "TIFF")
        assert (decode(data, ImageSpec(SIDE, range="0:1000")) == 128).all()
        with pytest.raises(UnreadableImage, match="no agreed range; the option range"):
            decode(data, ImageSpec(SIDE))
    signed = saved(
        Image.fromarray(np.full((SIDE, SIDE), 500, np.uint16)), "TIFF", tiffinfo={339: 2}
    )  # SampleFormat, TIFF 6.0
    with pytest.raises(UnreadableImage, match="signed or 32-bit integer pixels"):
        decode(signed, ImageSpec(SIDE))


@pytest.mark.parametrize(
    ("name", "value", "needs"),
    [
        ("range", "7-bit", "8-bit to 16-bit, or LOW:HIGH"), ("range", "5:1", "LOW below HIGH"), ("range", "0:nan", "LOW:HIGH"),
        ("background", "blue", "white, grey, black, #rrggbb or none"), ("colour", "p3", "must be one of ignored, srgb"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(name, value, needs):
    with pytest.raises(RequestError, match=needs):
        ImageSpec(SIDE, **{name: value}).check()


def deep_png(channels, colour):
    """A PNG of one pixel and 16 bits per channel (PNG, third edition, 11.2); its colour type says what the channels are."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 + 2 * channels)))
        + chunk(b"IEND", b"")
    )


def test_a_survey_finds_the_bits_in_use_and_what_is_not_read():
    survey = Survey(values=True)
    grey = [Image.fromarray(np.full((4, 4), value, np.uint16)) for value in (90, 3000)]
    for data in (*(saved(each, "TIFF") for each in grey), saved(flat((1, 2, 3))), b"II*\0broken", b""):
        survey.look(data)
    survey.look(saved(flat(1, "L"), "TIFF", save_all=True, append_images=[flat(2, "L")]))
    assert (survey.deep, survey.largest, survey.range, survey.paged) == (2, 3000, "12-bit", 1)
    for channels, colour in ((3, 2), (2, 4), (4, 6)):
        survey.look(deep_png(channels, colour))
    survey.look(deep_png(3, 2)[:30])
    assert (survey.deep, survey.cut) == (2, 3)
    told = "; ".join(survey.describe())
    assert "3 PNGs in colour or with transparency have 16 bits per channel, of which the highest eight" in told
    assert "2 images with values of more than 8 bits, the largest 3000: read as 12-bit" in told
    assert "1 TIFFs have several pages, of which the first is read" in told


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_formats_are_told_by_content_and_read(name, tmp_path):
    Image.init()
    data = saved(flat((200, 20, 20)), name)
    (tmp_path / "no-ending").write_bytes(data)
    assert format_of(data[:HEAD]) == name and why_no_image(tmp_path / "no-ending") is None
    np.testing.assert_allclose(decode(data, ImageSpec(SIDE))[4, 4], [200, 20, 20], atol=6)


def test_what_is_no_image_is_not_taken_for_one(tmp_path):
    for name, data in (
        ("a.txt", b"BM is how this text begins, and so goes on"),
        ("b", b""),
        ("c.csv", b"path,label\n"),
    ):
        (tmp_path / name).write_bytes(data)
        assert why_no_image(tmp_path / name) == "no image"
    assert why_no_image(tmp_path / "absent") == "cannot be read: No such file or directory"
    assert why_no_image(tmp_path / "by-its-ending.jpg") is None
    assert ".jpg" in EXTENSIONS


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)


def test_heic_names_the_package_that_it_needs(monkeypatch):
    monkeypatch.setattr("features.images.formats.installed", lambda module: False)
    assert format_of(HEIC[:HEAD]) == "HEIF"
    with pytest.raises(UnreadableImage, match="HEIC, which needs the package pillow-heif: pip install"):
        decode(HEIC, ImageSpec(SIDE))


def test_heic_is_read_with_pillow_heif():
    heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    file = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 20, 20))).save(file, quality=95)
    assert format_of(file.getvalue()[:HEAD]) == "HEIF"
    np.testing.assert_allclose(decode(file.getvalue(), ImageSpec(SIDE))[4, 4], [200, 20, 20], atol=6)
    with pytest.raises(UnreadableImage, match="broken"):
        decode(HEIC, ImageSpec(SIDE))


def dicom(values, kind, bits, **fields):
    """Return a DICOM file's bytes."""
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    held = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    held.Rows, held.Columns, held.SamplesPerPixel = SIDE, SIDE, 1 if values.ndim == 2 else 3
    held.PhotometricInterpretation, held.PlanarConfiguration, held.PixelRepresentation = kind, 0, 0
    held.BitsAllocated, held.BitsStored, held.HighBit = 8 * values.itemsize, bits, bits - 1
    for name, value in fields.items():
        setattr(held, name, value)
    held.PixelData = values.tobytes()
    file = io.BytesIO()
    held.save_as(file, enforce_file_format=True)
    assert format_of(file.getvalue()[:HEAD]) == "DICOM"
    return file.getvalue()


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colours_of_dicom_are_scaled_by_their_bits(bits):
    values = (
        np.random.default_rng(0).integers(0, 1 << bits, (SIDE, SIDE, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    )
    expected = np.rint(values / (2**bits - 1) * 255)
    np.testing.assert_array_equal(decode(dicom(values, "RGB", bits), ImageSpec(SIDE)), expected)
    with pytest.raises(UnreadableImage, match="a DICOM file of HSV, which is not read"):
        decode(dicom(values, "HSV", bits), ImageSpec(SIDE))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_dicom_is_looked_up(bits):
    random = np.random.default_rng(0)
    palette = random.integers(0, 1 << bits, (256, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    colours = {}
    for name, values in zip(("Red", "Green", "Blue"), palette.T, strict=True):
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        colours[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    places = random.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    found = decode(dicom(places, "PALETTE COLOR", 8, **colours), ImageSpec(SIDE))
    np.testing.assert_array_equal(found, np.rint(palette[places] / (2**bits - 1) * 255))
    if bits > 8:
        colours["RedPaletteColorLookupTableDescriptor"] = [256, 0, 8]
        with pytest.raises(UnreadableImage, match="colours outside 0 to 255, as its 8 bits have it"):
            decode(dicom(places, "PALETTE COLOR", 8, **colours), ImageSpec(SIDE))


def test_dicom_is_shown_in_the_window_of_the_file():
    values = np.linspace(0, 2000, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
    window = {"RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": [0.5, 9], "WindowWidth": [1001, 9]}
    data = dicom(values, "MONOCHROME2", 12, **window)
    found = decode(data, ImageSpec(SIDE))[..., 0]
    np.testing.assert_array_equal(found, decode(data, ImageSpec(SIDE, range="12-bit"))[..., 0])
    units = values.astype(float) - 1000  # black at -500 and white at 500, by the window
    np.testing.assert_array_equal(found, np.rint((units.clip(-500, 500) + 500) / 1000 * 255))
    named = decode(data, ImageSpec(SIDE, range="-1000:1000"))[..., 0]
    np.testing.assert_array_equal(named, np.rint((units + 1000) / 2000 * 255))
