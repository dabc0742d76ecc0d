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


def preprocess_input(images):
    """Like the applications' own, something other than division by 255."""
    return images / 127.5 - 1.0
