"""Models of the user's own, as tutorials make them, through all stages: they work, or one clear line says why not."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from features import FeatureStore, extract
from features.errors import CachedFeaturesError, EngineError, RequestError, UnsafeFile
from pipeline import export, predict, train_head

SIDE = 24
SHAPE = (SIDE, SIDE, 3)


def maps(x, name="maps"):
    return layers.Conv2D(6, 3, activation="relu", name=name)(x)


def logits(x, name="logits"):
    return layers.Dense(2, name=name)(layers.GlobalAveragePooling2D()(x))


def sequential():
    """With augmentation in front, one layer of which holds a seed that it changes at each call, and dropout behind."""
    parts = [layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomHue(0.1), layers.GaussianNoise(0.1)]
    parts += [layers.Rescaling(1 / 255), layers.Conv2D(6, 3, activation="relu", name="maps"), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input(SHAPE), *parts, layers.Flatten(), layers.Dense(2)])


def divided():
    images = keras.Input(SHAPE)
    return keras.Model(images, logits(maps(images / 255)))


def normalized():
    """Two ways of subtracting a constant, of which ONNX converters make an input."""
    images = keras.Input(SHAPE)
    x = layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[2000.0, 2100.0, 2200.0])(images)
    return keras.Model(images, maps(keras.applications.resnet50.preprocess_input(x)))


def two_outputs():
    images = keras.Input(SHAPE)
    x = maps(images)
    return keras.Model(images, [logits(x, "one"), logits(x, "other")])


def nested():
    """An application inside a model, as fine-tuning leaves it."""
    inputs, images = keras.Input(SHAPE), keras.Input(SHAPE)
    inner = keras.Model(inputs, maps(inputs), name="maps")
    return keras.Model(images, logits(inner(layers.Rescaling(1 / 255)(images))))


def any_size():
    images = keras.Input((None, None, 3))
    return keras.Model(images, maps(layers.RandomBrightness(0.2)(images)))


def bytes_in():
    images = keras.Input(SHAPE, dtype="uint8")
    x = keras.applications.mobilenet_v2.preprocess_input(keras.ops.cast(images, "float32"))
    return keras.Model(images, layers.BatchNormalization(name="maps")(layers.Conv2D(6, 3)(x)))


def mixed_precision():
    images = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, dtype="mixed_float16")(layers.Rescaling(1 / 255, dtype="mixed_float16")(images))
    return keras.Model(images, layers.Conv2D(6, 3, name="maps", dtype="mixed_float16")(x))


@pytest.fixture
def photos(tree):
    """A tree of images of the models' own size, which are not resized."""
    for path in tree.rglob("*.png"):
        Image.open(path).resize((SIDE, SIDE)).save(path)
    return tree


def saved(make, folder):
    keras.utils.set_random_seed(1)
    path = folder / f"{make.__name__}.keras"
    make().save(path)
    return path


def features_by_hand(path, pixels):
    """Return what Keras itself gives of the layer that is, or ends in, maps, by its own prediction."""
    model = keras.saving.load_model(path, compile=False)
    layer = next(each for each in model.layers if each.name == "maps")
    output = layer._inbound_nodes[0].outputs[0]
    return keras.Model(model.inputs, output).predict(pixels, verbose=0)


@pytest.mark.parametrize(
    "make", [sequential, divided, normalized, two_outputs, nested, any_size, bytes_in, mixed_precision]
)
def test_a_model_goes_through_all_stages(make, photos, tmp_path):
    """By default, to the last feature map and not the logits; with the values that Keras itself computes."""
    form = "onnx" if make is normalized else "keras"
    if form == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra export is not installed")
    path = saved(make, tmp_path)
    done = extract(
        str(photos), backbone=str(path), image_size=SIDE, engine="tensorflow", out=tmp_path / "s.h5", dtype="float32"
    )
    with FeatureStore(done.path) as store:
        ((name, shape),) = store.layers.items()
        assert name == ("dropout" if make is sequential else "maps")
        stored = store.read(rows=np.arange(2)).reshape(2, *shape)
        files = [photos / each for each in store.rows.paths[:2]]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    by_hand = features_by_hand(path, pixels.astype(make().inputs[0].dtype))
    near = 1e-2 if make is mixed_precision else 1e-4
    np.testing.assert_allclose(stored, by_hand, rtol=near, atol=near * np.abs(by_hand).max())
    settings = {"C": (1.0,), "scale": ("layer",)}
    run = train_head(done.path, "logistic", settings=settings, conformal=0.6, out=tmp_path / "run")
    assert len(predict(run.out, [str(photos / "test" / "red")]).predictions) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = export(run.out, tmp_path / f"model.{form}", rows=6, novelty=True)
    assert exported.parity["same_class"] == exported.parity["same_set"] == 6
    alike = make in (normalized, mixed_precision)  # images' features are so nearly equal that rounding counts
    assert exported.parity["novelty_difference"] < (0.1 if alike else 0.01)


@pytest.mark.parametrize("make", [divided, nested, mixed_precision])
def test_engines_that_cannot_read_a_model_are_left_out_and_said(make, tree, tmp_path, caplog):
    """numba reads no operations, no models within models and no half precision; on request, one line says so."""
    pytest.importorskip("numba", reason="the extra numba is not installed")
    path = saved(make, tmp_path)
    with caplog.at_level("INFO", "cached_features"):
        extract(str(tree), backbone=str(path), out=tmp_path / "s.h5")
    chosen = next(line for line in caplog.text.splitlines() if "chosen " in line)
    assert "numba" in chosen.split(": ", 1)[1]
    with pytest.raises(EngineError, match=r"numba .*engine='tensorflow'"):
        extract(str(tree), backbone=str(path), out=tmp_path / "numba.h5", engine="numba")


def two_inputs():
    images, other = keras.Input(SHAPE), keras.Input((4,))
    return keras.Model([images, other], layers.Concatenate()([logits(maps(images)), other]))


def oblong():
    images = keras.Input((SIDE, 2 * SIDE, 3))
    return keras.Model(images, maps(images))


def grey():
    images = keras.Input((SIDE, SIDE, 1))
    return keras.Model(images, maps(images))


def broken():
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(6, 3, name="maps")])
    model.set_weights([np.full_like(each, np.nan) for each in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (two_inputs, "must have one input, the images; it has 2. Save the part"),
        (oblong, "must take square images; it takes 24 x 48. Save it with"),
        (grey, r"must take RGB images, \(n, side, side, 3\)"),
        (broken, "values of maps must be finite"),
    ],
)
def test_a_model_that_cannot_be_a_base_is_one_clear_line(make, said, tree, tmp_path):
    with pytest.raises(CachedFeaturesError, match=said):
        extract(str(tree), backbone=str(saved(make, tmp_path)), engine="tensorflow", out=tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()


def test_a_model_of_the_old_format_names_the_line_that_converts_it(tree, tmp_path):
    path = tmp_path / "old.h5"
    path.touch()
    with pytest.raises(
        RequestError, match=r"must be a file of Keras' own format.*load_model\(\".*old.h5\".*save\(\".*old.keras\""
    ):
        extract(str(tree), backbone=str(path))


def heads():
    images = keras.Input(SHAPE)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(images)
    x = layers.Reshape((-1, 6))(x)
    return keras.Model(images, layers.MultiHeadAttention(2, 4)(x, x))


@pytest.mark.parametrize(
    ("was", "claimed"),
    [
        ('"kernel_size": [3, 3]', '"kernel_size": [30000, 30000]'),
        ('"depth_multiplier": 2', '"depth_multiplier": 2000000000'),
        ('"num_heads": 2', '"num_heads": 2000000000'),
        ('"key_dim": 4', '"key_dim": 2000000000'),
    ],
)
def test_claimed_sizes_of_weights_are_refused_before_memory_is_taken(was, claimed, tmp_path):
    import zipfile

    from features.safefiles.keras_files import check_model_file

    path, other = saved(heads, tmp_path), tmp_path / "other.keras"
    check_model_file(path)
    with zipfile.ZipFile(path) as held, zipfile.ZipFile(other, "w") as made:
        for name in held.namelist():
            content = held.read(name)
            if name == "config.json":
                assert was.encode() in content
                content = content.replace(was.encode(), claimed.encode())
            made.writestr(name, content)
    with pytest.raises(UnsafeFile, match="it claims"):
        check_model_file(other)
