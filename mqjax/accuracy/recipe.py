"""Options of training, with their defaults: light, so that the command's help can state them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Options of a training run. `shift` is how many pixels an image may be moved, `erase` the side of the square that
    is blanked; images are mirrored at random if `mirror`. `step_learning_rate` is that of learned step sizes (Adam),
    `clip_norm` the norm to which a longer gradient of the weights is cut."""

    epochs: int = 40
    batch: int = 128
    learning_rate: float = 0.1
    step_learning_rate: float = 0.003
    clip_norm: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    smoothing: float = 0.0
    shift: int = 1
    erase: int = 0
    mirror: bool = True
    seed: int = 0


QUANTIZED = TrainConfig(epochs=10, learning_rate=0.02, clip_norm=1.0)
"""Settings that suit quantization-aware training from trained weights. At 3 bits single batches have gradients ten times as
long as others; unclipped, they undo an epoch."""
