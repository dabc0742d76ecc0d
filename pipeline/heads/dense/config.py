"""Architecture and training settings of Dense heads."""

from __future__ import annotations

from dataclasses import dataclass

from features.errors import RequestError, must_be_one_of, option

from ..settings import CLASS_WEIGHTS

OPTIMIZERS = ("rmsprop", "adam", "sgd")


@dataclass(frozen=True)
class Recipe:
    """Architecture, learning rate and class weights of one head.

    Attributes
    ----------
    units : str
        Widths of the hidden layers, such as ``10`` or ``256-128``; ``none`` for a linear head.
    dropout : float
        Rate after each hidden layer, in [0, 1).
    learning_rate : float
        Above 0.
    class_weight : {'none', 'balanced'}
        ``balanced`` weights classes in training as if they had equal size.
    weight_decay : float
        How much of each weight, but not of biases, times the learning rate, each step takes from it; at least 0.

    Raises
    ------
    RequestError
        If a value is not allowed.
    """

    units: str = "10"
    dropout: float = 0.0
    learning_rate: float = 1e-3
    class_weight: str = "none"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.units != "none" and not all(each.isdigit() and int(each) for each in self.units.split("-")):
            raise RequestError(
                f"units must be like 10, 256-128 or none; got {self.units!r}. {option('settings', {'units': ('256-128',)})}"
            )
        if not 0 <= self.dropout < 1:
            raise RequestError(
                f"dropout must be between 0 and 1; got {self.dropout}. {option('settings', {'dropout': (0.5,)})}"
            )
        if not self.learning_rate > 0:
            raise RequestError(
                f"learning_rate must be above 0; got {self.learning_rate}. {option('settings', {'learning_rate': (0.001,)})}"
            )
        if not self.weight_decay >= 0:
            raise RequestError(
                f"weight_decay must be at least 0; got {self.weight_decay}. {option('settings', {'weight_decay': (1.0,)})}"
            )
        if self.class_weight not in CLASS_WEIGHTS:
            raise must_be_one_of("class_weight", CLASS_WEIGHTS, self.class_weight)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return () if self.units == "none" else tuple(map(int, self.units.split("-")))


@dataclass(frozen=True)
class Schedule:
    """Training settings shared by heads that are trained on one stream of batches.

    Attributes
    ----------
    epochs, batch_size : int
        At least 1.
    optimizer : {'rmsprop', 'adam', 'sgd'}
    patience : int, optional
        Stop when no head's validation loss has improved for this many epochs.
    steps, val_steps : int, optional
        Training and validation batches per epoch, drawn from an endless shuffled stream as Keras' generators do. By
        default, all rows once each. Only for matrices in memory.
    keep_best : bool
        Keep the weights of the epoch with the lowest validation loss instead of the last.
    scaled : bool
        Divide inputs by their root mean square.
    seed : int
        The same seed gives the same weights on the same machine.

    Raises
    ------
    RequestError
        If a value is not allowed.
    """

    epochs: int = 30
    batch_size: int = 20
    optimizer: str = "rmsprop"
    patience: int | None = None
    steps: int | None = None
    val_steps: int | None = None
    keep_best: bool = True
    scaled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise RequestError(
                    f"{name} must be at least 1; got {getattr(self, name)}. {option('settings', {name: (20,)})}"
                )
        if self.optimizer not in OPTIMIZERS:
            raise must_be_one_of("optimizer", OPTIMIZERS, self.optimizer)
