"""What needs no network, and says what a figure is worth: the commonest class, a linear classifier on pixels."""

import warnings
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nshot.data.images import Pictures
from nshot.data.mixture import mixture
from nshot.data.sources import Dataset

SIDES = (32, 16, 8, 4)  # pixels: of the largest that is not too much work
WORK = 1e9  # images x values of one x classes, at most
LEARN = 5000  # images of each of the two parts that it learns from, at most
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C, of pixels with unit variance
STEPS = 100  # of L-BFGS


def majority(data: Dataset) -> int:
    """The commonest class of the training images."""
    labels = np.concatenate([data.train.labels.numpy(), data.valid.labels.numpy()])
    return int(np.bincount(labels, minlength=data.classes).argmax())


def linear(data: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
    """What logistic regression on pixels says of the test images (N,); and what it was made of.

    The strength of its penalty is the one that is best on the validation part, learnt from the training part; then it
    learns from both. Of many images it takes 5,000 of each, balanced, of large ones at most 32 pixels.
    """
    train, valid = (mixture(part, min(LEARN, len(part))) for part in (data.train, data.valid))
    count = len(train) + len(valid)
    side = next((s for s in SIDES if s <= data.train.side and 3 * s**2 * count * data.classes <= WORK), SIDES[-1])
    side = min(side, data.train.side)
    first, first_labels = _values(train, side)
    second, second_labels = _values(valid, side)
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if len(np.unique(first_labels)) > 1:
        right = [_fitted(first, first_labels, c).score(second, second_labels) for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(right))]
    labels = np.concatenate([first_labels, second_labels])
    fitted = _fitted(np.concatenate([first, second]), labels, strength)
    said = fitted.predict(_values(data.test, side)[0])
    return said.astype(np.int64), {"learnt_from": len(labels), "side": side, "strength": strength}


def _values(images: Pictures, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels as rows of numbers, float32 (N, 3 side²), and labels (N,)."""
    loaded = images.resized(side).loaded()
    return loaded.pixels.numpy().reshape(len(loaded), -1).astype(np.float32), loaded.labels.numpy()


def _fitted(values: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """A classifier; of one class alone, as a sample of a very uneven set may have, one that always says that."""
    if len(np.unique(labels)) == 1:
        return DummyClassifier().fit(values, labels)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is one more penalty
        return classifier.fit(values, labels)
