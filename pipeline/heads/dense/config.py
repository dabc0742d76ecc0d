"""What Dense heads are made of and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass

from features.errors import RequestError, must_be_one_of, option

OPTIMIZERS = ("rmsprop", "adam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class Recipe:
    """What one head is and how fast it learns.

    Attributes
    ----------
    units : str
        Widths of the hidden layers, such as ``10`` or ``256-128``; ``none`` for a linear head.
    dropout : float
        After each hidden layer, in [0, 1).
    learning_rate : float
    class_weight : {'none', 'balanced'}
        Whether classes weigh as if they were of equal size, in training alone.
    """

    units: str = "10"
    dropout: float = 0.0
    learning_rate: float = 1e-3
    class_weight: str = "none"

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
        if self.class_weight not in CLASS_WEIGHTS:
            raise must_be_one_of("class_weight", CLASS_WEIGHTS, self.class_weight)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return () if self.units == "none" else tuple(map(int, self.units.split("-")))


@dataclass(frozen=True)
class Schedule:
    """How heads that share a stream are trained.

    Attributes
    ----------
    epochs, batch_size : int
    optimizer : {'rmsprop', 'adam', 'sgd'}
    patience : int, optional
        Stop once no head's validation loss has fallen for so many epochs.
    steps, val_steps : int, optional
        Batches an epoch, of training and of validation rows, drawn from an endless shuffled stream as Keras'
        generators do; all rows, once each, if left out. For matrices in memory.
    keep_best : bool
        Keep the weights of the epoch with the lowest validation loss, and not the last ones.
    scaled : bool
        Divide inputs by their root mean square.
    seed : int
        Same seed, same weights, on the same machine.
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
