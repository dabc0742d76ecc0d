"""Multiply-adds of bases, held against published figures and sums by hand."""

import pytest

from features.backbones.keras_base import build_base, find_base
from features.backbones.multiply_adds import count_in_keras, count_multiply_adds


@pytest.mark.parametrize(
    ("constructor", "published"),
    [
        ("VGG16", 15.5e9),  # Canziani et al. 2016, An analysis of deep neural network models
        ("MobileNetV2", 300e6),  # Sandler et al. 2018, table 4
        ("Xception", 8.4e9),  # Zhang et al. 2018 (ShuffleNet), for 299 px
    ],
)
def test_of_keras_applications_as_published(constructor, published):
    import keras

    side = 299 if constructor == "Xception" else 224
    model = getattr(keras.applications, constructor)(weights=None, input_shape=(side, side, 3))
    assert count_in_keras(model) == pytest.approx(published, rel=0.01)


def test_of_a_packaged_base_up_to_the_asked_layer():
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    whole = count_multiply_adds(find_base("efficientnet_lite0", ["logits"], 224))
    assert whole == pytest.approx(0.40e9, rel=0.05)  # published with the package
    stem = count_multiply_adds(find_base("efficientnet_lite0", ["stem"], 224))
    assert stem == 112 * 112 * 32 * 27  # 32 kernels of 3 x 3 x 3 at half the side
    assert count_multiply_adds(find_base("efficientnet_lite0", ["stem", "logits"], 224)) == whole


@pytest.mark.parametrize("batch", ["n", 4])
def test_of_onnx_files_by_hand(tmp_path, batch):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    import onnx_models

    def count(model, layers):
        path = onnx_models.save(model, tmp_path / "m.onnx")
        return count_multiply_adds(build_base(str(path), layers, 16, "half"))

    convolutions = 7 * 7 * 4 * 27, 3 * 3 * 6 * 36
    assert count(onnx_models.maps(batch), ["stem.relu"]) == convolutions[0]
    assert count(onnx_models.maps(batch), ["last"]) == sum(convolutions)
    assert count(onnx_models.maps(batch), ["logits"]) == sum(convolutions) + 6 * 3
    assert count(onnx_models.tokens(batch), ["normed"]) == 4 * 4 * 8 * 48 + 16 * 8 * 8


def test_operations_of_unknown_cost_are_not_guessed(tmp_path):
    import keras

    images = keras.Input((8, 8, 3))
    rows = keras.layers.Reshape((64, 3))(images)
    attended = keras.layers.MultiHeadAttention(2, 4)(rows, rows)
    assert count_in_keras(keras.Model(images, attended)) is None
    assert count_in_keras(keras.Model(images, keras.ops.matmul(rows, rows[:, :3]))) is None
    first = keras.layers.Conv2D(2, 3, data_format="channels_first")
    assert count_in_keras(keras.Model(images, first(keras.layers.Permute((3, 1, 2))(images)))) is None
    inner = keras.Sequential([keras.Input((64, 3)), keras.layers.Dense(5), keras.layers.Dense(2)])
    assert count_in_keras(keras.Model(images, inner(rows))) == 64 * (3 * 5 + 5 * 2)
