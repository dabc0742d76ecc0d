"""How images of any shape become squares."""

import io

import numpy as np
import pytest
from conftest import draw_tree
from PIL import ExifTags, Image

from features import ConvFeatures, FeatureStore, extract
from features.errors import RequestError, StoreError
from features.images.contents import Content
from features.images.decoding import decode, is_reduced
from features.images.fitting import FITS, padded_sides
from features.images.image_spec import ImageSpec
from pipeline import predict, train_head


def smooth(height, width):
    """Return a photo-like image: waves that are much longer than a pixel."""
    down, across = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(down / 70 + phase) * np.cos(across / 60) for phase in (0, 1, 2)]
    return np.stack(waves, axis=2).astype(np.uint8)


def encode(pixels, file_format="PNG", orientation=None):
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(file, file_format, exif=exif, **({"quality": 98} if file_format == "JPEG" else {}))
    return file.getvalue()


@pytest.mark.parametrize(("fit", "resized_to"), [("crop", 64), ("crop:0.7", 80), ("crop:1", 56)])
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (333, 333)])
def test_crop_is_what_networks_are_tested_with(shape, fit, resized_to):
    """Resized so that the shorter side is size / share, then the middle: torchvision's Resize(64) and CenterCrop(56)."""
    pixels = smooth(*shape)
    shorter = min(shape)
    height, width = (round(resized_to * side / shorter) for side in shape)
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    left, upper = (width - 56) // 2, (height - 56) // 2
    expected = np.asarray(resized.crop((left, upper, left + 56, upper + 56))).astype(int)
    assert (
        np.abs(decode(encode(pixels), ImageSpec(56, fit=fit)) - expected).mean() < 3
    )  # it places the middle to whole pixels


@pytest.mark.parametrize("shape", [(30, 60), (60, 30), (50, 50), (60, 1)])
def test_pad_keeps_the_whole_image_between_black(shape):
    found = decode(encode(np.full((*shape, 3), 200, np.uint8)), ImageSpec(20, fit="pad"))
    across, down = padded_sides(shape[1], shape[0], 20)
    assert max(across, down) == 20 and (found == 200).all(axis=2).sum() == across * down
    assert (found == found[::-1, ::-1]).all() and set(np.unique(found)) <= {0, 200}


@pytest.mark.parametrize("fit", (*FITS, "crop:0.9"))
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 5])
def test_photos_are_the_same_turned_and_decoded_at_a_reduced_size(fit, orientation):
    data = encode(smooth(640, 804), "JPEG", orientation)
    assert is_reduced(data, ImageSpec(40, fit=fit))
    full = decode(data, ImageSpec(40, fit=fit)).astype(int)
    assert np.abs(decode(data, ImageSpec(40, decode="scaled", fit=fit)) - full).max() <= 12


def test_a_crop_is_decoded_at_a_reduced_size_only_where_twice_its_resized_side_is_left():
    data = encode(smooth(160, 200), "JPEG")
    assert (
        is_reduced(data, ImageSpec(40))
        and not is_reduced(data, ImageSpec(40, fit="crop"))
        and is_reduced(data, ImageSpec(35, fit="crop"))
    )


@pytest.mark.parametrize("fit", (*FITS, "crop:0.9"))
def test_a_store_holds_its_fit_and_predictions_follow_it(tmp_path, fit):
    tree = draw_tree(tmp_path / "photos")
    done = extract(str(tree), backbone="tiny", fit=fit, out=tmp_path / "s.h5", dtype="float32")
    with FeatureStore(done.path) as store:
        assert store.made.spec.fit == fit
        first, path = store.read("last", rows=np.arange(1)), tree / store.rows.paths[0]
    transformed = ConvFeatures("tiny", "last", "flatten", square=fit, dtype="float32", cache=None).fit_transform([path])
    np.testing.assert_allclose(transformed, first, rtol=1e-5)
    train_head(done.path, head="logistic", out=tmp_path / "run")
    stored = predict(tmp_path / "run", tree / "test").predictions
    done.path.unlink()
    computed = predict(tmp_path / "run", tree / "test")
    assert computed.computed == 8
    for one, other in zip(stored, computed.predictions, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_stores_of_other_fits_are_not_mixed(tmp_path):
    tree = draw_tree(tmp_path / "photos")
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5")
    with pytest.raises(StoreError, match="fit: stored stretch, requested crop"):
        extract(str(tree), backbone="tiny", fit="crop", out=tmp_path / "s.h5")
    with pytest.raises(RequestError, match=r"fit must be one of crop, pad, stretch; got 'crops'. Did you mean 'crop'"):
        extract(str(tree), backbone="tiny", fit="crops", out=tmp_path / "s.h5")
    for wrong in ("crop:", "crop:0", "crop:0.0", "crop:1.1", "crop:nan", "crop:-0.5", "crop:1e-3"):
        with pytest.raises(
            RequestError, match="fit must be crop:SHARE with a share of the shorter side, above 0 and at most 1"
        ):
            ImageSpec(40, fit=wrong).check()
    for other, name in (("crop:0.875", "crop"), ("crop:.9", "crop:0.9"), ("crop:0.90", "crop:0.9")):
        with pytest.raises(RequestError, match=f"fit must be {name}; got '{other}'"):
            ImageSpec(40, fit=other).check()
        ImageSpec(40, fit=name).check()


def test_images_in_memory_are_fitted_like_files(tmp_path):
    pixels = smooth(90, 60)
    (tmp_path / "a.png").write_bytes(encode(pixels))
    from features.images.contents import Pixels, hash_files

    (key,) = hash_files([tmp_path / "a.png"], 1)
    for fit in FITS:
        of_file = Content(key, tmp_path / "a.png").image(ImageSpec(20, fit=fit))
        np.testing.assert_array_equal(Pixels.of(pixels).image(ImageSpec(20, fit=fit)), of_file)
