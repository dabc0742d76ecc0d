"""A seeded convolutional base small enough for tests of plumbing; its weights mean nothing."""

import keras
import numpy as np


def Tiny(weights, include_top, input_shape):
    """Two layers; `weights` is ignored: they are always the same random ones, BatchNorm's statistics included."""
    images = keras.Input(input_shape, name="images")
    maps = keras.layers.Conv2D(4, 3, strides=2, name="conv")(images)
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    maps = keras.layers.ReLU(name="relu")(maps)
    maps = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="last")(maps)
    model = keras.Model(images, maps, name="tiny")
    random = np.random.default_rng(7)
    model.set_weights([random.uniform(0.05, 0.5, array.shape) for array in model.get_weights()])
    return model


def TinyTokens(weights, include_top, input_shape):
    """Patches as tokens behind a class token, and attention among them; `weights` is ignored, as in `Tiny`."""
    layers = keras.layers
    images = keras.Input(input_shape, name="images")
    patches = layers.Conv2D(8, 4, strides=4, name="patches")(images)
    tokens = layers.Reshape((-1, 8), name="flat")(patches)
    tokens = layers.ZeroPadding1D((1, 0), name="cls")(tokens)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens)
    outputs = layers.Add(name="tokens")([tokens, attended])
    model = keras.Model(images, outputs, name="tiny_tokens")
    random = np.random.default_rng(9)
    model.set_weights([random.normal(0, 0.2, array.shape) for array in model.get_weights()])
    return model


def TinyChain(weights, include_top, input_shape):
    """Convolutions and pools as VGG's; `weights` is ignored: they are always the same random ones."""
    maps = images = keras.Input(input_shape, name="images")
    for number, width in enumerate((32, 32, 0, 64, 64, 0), start=1):
        if width:
            maps = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{number}")(maps)
        else:
            maps = keras.layers.MaxPooling2D((2, 2), name=f"pool{number}")(maps)
    model, random = keras.Model(images, maps, name="chain"), np.random.default_rng(8)
    model.set_weights([random.normal(0, 0.1, array.shape) for array in model.get_weights()])
    return model


def TinyGraph(weights, include_top, input_shape):
    """What ResNet, Inception and DenseNet are made of; `weights` is ignored: they are always the same random ones."""
    layers = keras.layers

    def conv(x, width, size, name, relu=True, **options):
        x = layers.Conv2D(width, size, use_bias=False, name=name, **options)(x)
        x = layers.BatchNormalization(scale=relu, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x

    images = keras.Input(input_shape, name="images")
    x = layers.ZeroPadding2D(3, name="pad")(images)
    x = conv(x, 32, 7, "stem", strides=2)
    x = layers.ZeroPadding2D(1, name="pool_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool")(x)
    short = conv(x, 80, 1, "short", relu=False, strides=2)
    x = conv(conv(x, 48, 1, "a", strides=2), 48, 3, "b", padding="same")
    x = layers.Add(name="add")([short, conv(x, 80, 1, "c", relu=False)])
    x = trunk = layers.ReLU(name="trunk")(x)
    x = layers.Add(name="sum")([x, conv(x, 80, 3, "d", relu=False, padding="same")])
    five = conv(conv(x, 48, 1, "e"), 64, 5, "five", padding="same")
    seven = conv(conv(x, 32, (1, 7), "f", padding="same"), 32, (7, 1), "seven", padding="same")
    split = conv(x, 64, 3, "split", padding="same")
    both = [conv(split, 16, (1, 3), "wide", padding="same"), conv(split, 16, (3, 1), "tall", padding="same")]
    mean = layers.AveragePooling2D(3, strides=1, padding="same", name="mean")(x)
    x = layers.Concatenate(name="mixed")([trunk, five, seven, layers.Concatenate(name="both")(both), mean, trunk])
    dense = conv(layers.ReLU(name="norm_relu")(layers.BatchNormalization(name="norm")(x)), 32, 1, "dense")
    x = layers.Concatenate(name="grown")([x, dense])
    small = layers.MaxPooling2D(3, strides=2, padding="same", name="small")(x)
    x = layers.Concatenate(name="reduced")([conv(x, 48, 3, "g", strides=2, padding="same"), small])
    model, random = (keras.Model(images, conv(x, 32, 1, "last"), name="graph"), np.random.default_rng(9))
    for layer in model.layers:
        weights = [random.uniform(0.3, 1.5, array.shape) for array in layer.get_weights()]
        if isinstance(layer, layers.Conv2D):
            weights = [random.normal(0, np.sqrt(2 / array[..., 0].size), array.shape) for array in weights]
        layer.set_weights(weights)
    return model


def preprocess_input(images):
    """Like the applications' own, something other than division by 255."""
    return images / 127.5 - 1.0
