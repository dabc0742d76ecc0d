"""What reaches a trained head from images as people have them: the same settings in all commands, and warnings at the start."""

import io

import numpy as np
import pytest
from conftest import draw
from PIL import Image, ImageCms

import pipeline
from features import FeatureStore, extract
from pipeline.cli.commands import main


@pytest.fixture
def icons(tmp_path):
    """Sixteen icons whose shapes are in the alpha channel alone, one with a profile that is not sRGB's."""
    random = np.random.default_rng(0)
    for number in range(16):
        shape = random.integers(0, 2, (20, 20)).astype(np.uint8) * (255 if number % 2 else 120)
        image = Image.merge("RGBA", [Image.new("L", (20, 20), 9)] * 3 + [Image.fromarray(shape)])
        file = tmp_path / f"icons/{'ab'[number % 2]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    return tmp_path / "icons"


def test_new_images_are_read_as_those_of_the_store(icons, tmp_path, stand_in):
    extract(str(icons), out=tmp_path / "s.h5", background="#3060c0")
    run = pipeline.train_head(tmp_path / "s.h5", "nearest-mean", out=tmp_path / "r")
    held = {each.path: each for each in pipeline.predict(run.out, icons).predictions}
    (tmp_path / "s.h5").unlink()  # so that the base computes the images
    for path, known in held.items():
        computed = pipeline.predict(run.out, path).predictions[0]
        opened = pipeline.predict(run.out, Image.open(path)).predictions[0]
        for each in (computed, opened):
            assert each.probabilities == pytest.approx(known.probabilities, abs=1e-3)


def test_a_store_keeps_what_it_was_made_with(icons, tmp_path, stand_in, said):
    extract(str(icons), out=tmp_path / "s.h5", background="none", colour="ignored")
    draw(icons / "a/new.png", 7)
    assert extract(str(icons), out=tmp_path / "s.h5").computed == 1
    assert any(line.startswith("images   colour ignored, background none, as") for line in said)
    with FeatureStore(tmp_path / "s.h5") as store:
        assert (store.made.spec.colour, store.made.spec.background) == ("ignored", "none")
    status = main(["extract", str(icons), "--out", str(tmp_path / "s.h5"), "--background", "black"])
    assert status == 2  # other settings are never mixed


def test_a_profile_decides_the_features(tmp_path, stand_in):
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert wide  # of another colour space, so that it does not fit RGB pixels and changes nothing
    draw(tmp_path / "photos/a/0.png", 0)
    for number in range(12):
        image = Image.open(draw(tmp_path / f"photos/{'ab'[number % 2]}/{number}.png", number))
        image.save(tmp_path / f"photos/{'ab'[number % 2]}/{number}.png", icc_profile=wide)
    extract(str(tmp_path / "photos"), out=tmp_path / "srgb.h5")
    extract(str(tmp_path / "photos"), out=tmp_path / "ignored.h5", colour="ignored")
    with FeatureStore(tmp_path / "srgb.h5") as one, FeatureStore(tmp_path / "ignored.h5") as other:
        np.testing.assert_array_equal(one.read(), other.read())
        assert one.made.spec.fingerprint != other.made.spec.fingerprint


def test_a_class_of_one_image_is_compared_where_it_is_accepted(tmp_path, stand_in, capsys):
    for number in range(24):
        draw(tmp_path / f"photos/{'ab'[number % 2]}/{number}.png", number, [(20, 20, 120), (120, 20, 20)][number % 2])
    draw(tmp_path / "photos/dots/only.png", 99, (20, 120, 20))
    assert main(["extract", str(tmp_path / "photos"), "--out", str(tmp_path / "s.h5")]) == 2
    assert "'dots'" in capsys.readouterr().err
    assert main(["extract", str(tmp_path / "photos"), "--out", str(tmp_path / "s.h5"), "--allow-missing-classes"]) == 0
    found = pipeline.compare(tmp_path / "s.h5", ["nearest-mean", "knn", "logistic", "majority"], out=tmp_path / "c")
    assert found.heads and set(found.not_fitted) | {head["head"] for head in found.heads} == {
        "nearest-mean", "knn", "logistic", "majority",
    }  # fmt: skip
    assert pipeline.report(tmp_path / "c").path.exists()


def test_near_copies_across_the_split_are_warned_of_at_extract(tmp_path, stand_in, capsys):
    random = np.random.default_rng(0)
    for number in range(60):  # in no order that a list of files shows
        base = np.random.default_rng(number % 30).integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        pixels = (base + random.integers(-3, 4, base.shape)).clip(0, 255).astype(np.uint8)
        file = tmp_path / f"photos/{'ab'[number % 2]}/{random.integers(1 << 40)}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    assert main(["extract", str(tmp_path / "photos"), "--out", str(tmp_path / "s.h5"), "--image-size", "32"]) == 0
    err = capsys.readouterr().err
    assert "test images have a near-copy in train or val" in err or "the images come in series" in err
    main(["compare", str(tmp_path / "s.h5"), "--heads", "majority", "--repeats", "3", "--out", str(tmp_path / "c")])
    assert "3 random stratified splits, seeds from 0, instead of the store's own" in capsys.readouterr().err


def test_a_heic_photo_is_predicted_as_its_pixels(icons, tmp_path, stand_in):
    heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    extract(str(icons), out=tmp_path / "s.h5")
    run = pipeline.train_head(tmp_path / "s.h5", "nearest-mean", out=tmp_path / "r")
    image = Image.new("RGB", (64, 64), (200, 20, 20))
    file = io.BytesIO()
    heif.from_pillow(image).save(file, quality=100)
    (tmp_path / "IMG_1.HEIC").write_bytes(file.getvalue())
    one, other = (pipeline.predict(run.out, each).predictions[0] for each in (tmp_path / "IMG_1.HEIC", image))
    assert one.probabilities == pytest.approx(other.probabilities, abs=0.02)
