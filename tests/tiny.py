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


def preprocess_input(images):
    """Like the applications' own, something other than division by 255."""
    return images / 127.5 - 1.0
