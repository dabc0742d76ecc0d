"""What one image may cost."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from features.errors import RequestError, UnreadableImage, on_command_line
from features.images.bounds import PillowLimit, Room
from features.images.decoding import decode, decode_whole
from features.images.image_spec import ImageSpec

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


def saved(file_format, **options):
    """Return an image file's bytes."""
    data = io.BytesIO()
    Image.fromarray(PHOTO).save(data, file_format, **options)
    return data.getvalue()


def webp(chunk, body):
    """Return a WebP file of one chunk."""
    held = b"WEBP" + chunk + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(held)) + held


def sides(width, height):
    """Return the sides as an extended WebP holds them: each less one, in three bytes."""
    return (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def png(width, height):
    """Return a PNG that claims to be of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I", 20)
        + b"IDAT"
        + bytes(24)
    )


COSTLY = {
    "extended WebP": (webp(b"VP8X", bytes(4) + sides(16_383, 16_383)), "16383 x 16383 pixels; refused"),
    "lossless WebP": (
        webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(9)),
        "16384 x 16384 pixels",
    ),
    "lossy WebP": (webp(b"VP8 ", bytes(6) + struct.pack("<HH", 16_383, 16_383) + bytes(9)), "16383 x 16383 pixels"),
    "one column": (png(1, 99_999_000), "1 x 99999000 pixels; at most 65,535 per side"),
    "one row": (png(65_536, 1), "65536 x 1 pixels; at most 65,535 per side"),
    "a square": (png(15_812, 15_812), "15812 x 15812 pixels; refused"),
}


@pytest.mark.parametrize(("data", "reason"), COSTLY.values(), ids=list(COSTLY))
def test_the_size_is_refused_before_memory_is_taken(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data, ImageSpec(8))


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 80}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}]
)
def test_a_webp_is_read(options):
    assert decode_whole(saved("WEBP", **options), ImageSpec(8)).shape == PHOTO.shape


def test_many_scans_are_refused_and_those_of_a_progressive_photo_read():
    data = saved("JPEG", progressive=True, quality=90)
    first, last = data.index(b"\xff\xda"), data.rindex(b"\xff\xda")
    again = data[last:-2]  # the last scan, which refines coefficients once more
    assert 5 < data.count(b"\xff\xda") < 20 and first < last
    assert decode_whole(data, ImageSpec(8)).shape == PHOTO.shape
    for before in (
        b"",
        b"\xff\x02\xff\xff",
        b"\xff\xff",
    ):  # a reserved marker has no length; any marker may begin with several FF
        with pytest.raises(UnreadableImage, match="a JPEG of more than 100 scans"):
            decode(data[:-2] + before + again * 110 + data[-2:], ImageSpec(8))
    with pytest.raises(UnreadableImage, match="a JPEG of more than 100,000 segments"):
        decode(data[:-2] + b"\xff\xfe\0\x02" * 200_000 + again * 200, ImageSpec(8))


def test_scans_in_segments_and_behind_the_end_are_no_scans_of_a_photo():
    """As thumbnails, a phone's video behind its photo, and whatever a camera adds."""
    data, more = saved("JPEG"), np.random.default_rng(0).bytes(20_000_000)
    assert more.count(b"\xff\xda") > 200
    segment = b"\xff\xe5" + (60_002).to_bytes(2) + b"\xff\xda" * 30_000
    behind = b"\0\2" + b"\xff\xda\0\2" * 200
    for changed in (data + more, data + data * 200, data + behind, data[:2] + segment + data[2:] + more):
        assert (decode_whole(changed, ImageSpec(8)) == decode_whole(data, ImageSpec(8))).all()


def test_a_photo_of_two_hundred_megapixels_is_read():
    """Above the limit of Pillow's own, 179 million."""
    data = io.BytesIO()
    Image.new("L", (16_320, 12_240), 77).save(data, "JPEG")
    assert (decode(data.getvalue(), ImageSpec(8, decode="scaled")) == 77).all()


def test_threads_wait_until_there_is_room():
    room, held, most, lock = Room(100), [], [], threading.Lock()

    def decode_one(pixels):
        with room.taken(pixels):
            with lock:
                held.append(pixels)
                most.append(list(held))
            with lock:
                held.remove(pixels)

    asked = [60, 30, 10, 250, 50, 50, 100, 40, 40, 40]
    threads = [threading.Thread(target=decode_one, args=(pixels,)) for pixels in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == len(asked) and [250] in most
    assert all(sum(each) <= 100 or each == [250] for each in most)


def test_threads_hold_room_at_once_where_it_is_enough_for_them():
    room, both = Room(100), threading.Barrier(2, timeout=60)

    def decode_one(pixels):
        with room.taken(pixels):
            both.wait()

    threads = [threading.Thread(target=decode_one, args=(pixels,)) for pixels in (60, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken


def test_the_limit_is_as_asked_and_the_reason_names_the_option():
    data = saved("PNG")
    with pytest.raises(UnreadableImage, match=r"40 x 24 pixels; .* at most 959 are read. .*: max_pixels=960$"):
        decode(data, ImageSpec(8, max_pixels=959))
    assert (decode(data, ImageSpec(8, max_pixels=960)) == decode(data, ImageSpec(8))).all()
    with on_command_line("cached-features"), pytest.raises(UnreadableImage, match=r"--max-pixels 960$"):
        decode_whole(data, ImageSpec(8, max_pixels=959))
    assert ImageSpec(8, max_pixels=959) == ImageSpec(8)  # the values are the same


@pytest.mark.parametrize("most", [0, -1, 65_535**2 + 1])
def test_a_limit_that_no_image_can_have_is_refused(most):
    with pytest.raises(RequestError, match="max_pixels must be from 1 to 4,294,836,225"):
        decode(saved("PNG"), ImageSpec(8, max_pixels=most))


def test_a_limit_above_the_usual_one_reads_what_that_refuses():
    data = io.BytesIO()
    Image.new("L", (16_000, 16_000), 77).save(data, "JPEG")
    with pytest.raises(UnreadableImage, match="max_pixels=256000000"):
        decode(data.getvalue(), ImageSpec(8, decode="scaled"))
    assert (decode(data.getvalue(), ImageSpec(8, decode="scaled", max_pixels=256_000_000)) == 77).all()


@pytest.mark.parametrize("file_format", ["TIFF", "WEBP", "GIF"])
def test_pillows_own_limit_neither_refuses_nor_warns_and_is_put_back(file_format, monkeypatch):
    """Pillow checks the sizes of these formats once more, against a limit of 89 million pixels; beyond twice, it raises."""
    data = saved(file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # the image has 960, and warnings are errors here
    assert decode_whole(data, ImageSpec(8)).shape == PHOTO.shape
    assert Image.MAX_IMAGE_PIXELS == 300


def test_the_highest_of_several_limits_holds_until_its_thread_is_done(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    limit = PillowLimit()
    with limit.raised(500):
        with limit.raised(400):
            assert Image.MAX_IMAGE_PIXELS == 500
        with limit.raised(600):
            assert Image.MAX_IMAGE_PIXELS == 600
        assert Image.MAX_IMAGE_PIXELS == 500
    with limit.raised(200):
        assert Image.MAX_IMAGE_PIXELS == 300
    assert Image.MAX_IMAGE_PIXELS == 300
