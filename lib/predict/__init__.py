"""Segment images with trained weights: masks in the Kaggle layout and the table of cases.

The doors are ``predict(weights, data)`` and ``python -m lib.predict``; start to read at
``segmentation.py``.
"""

# fmt: off
from lib.predict.prediction import Prediction
from lib.predict.segmentation import most_different, predict, require_batch_size, segment
from lib.predict.weights import (
    KIT_WEIGHTS,
    PRETRAINED,
    SMALL_WEIGHTS,
    default_weights,
    load_weights,
    trained_model,
    unseen,
)

__all__ = [
    "KIT_WEIGHTS", "PRETRAINED", "SMALL_WEIGHTS", "Prediction", "default_weights", "load_weights",
    "most_different", "predict", "require_batch_size", "segment", "trained_model", "unseen",
]
