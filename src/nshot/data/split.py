"""Which images of one's own are held out: each by a hash of its own, so that no other image has a say in it."""

from hashlib import blake2b

import numpy as np

from .images import Pictures, keys

TEST, VALID = 1 / 5, 1 / 2  # shares: without a test part, of a class; without a validation part, of what is learnt from


def held_out(images: Pictures, share: float, purpose: str) -> np.ndarray:
    """Which images are kept apart: bool (N,).

    Each image for which a hash of the purpose and its key (a file's name, a row's content) is below that share of all
    hashes: whatever is added or deleted beside it, its part stays, and a class has its share but for chance. A class in
    which that holds for no image gives the one of the lowest hash; one in which it holds for all keeps the one of the
    highest, and so its only one.
    """
    digests = [blake2b(key, digest_size=8, key=purpose.encode()).digest() for key in keys(images)]
    hashes = np.frombuffer(b"".join(digests), dtype="<u8") / 2.0**64
    held = hashes < share
    labels = images.labels.numpy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if not held[rows].any():
            held[rows[hashes[rows].argmin()]] = True
        if held[rows].all():
            held[rows[hashes[rows].argmax()]] = False
    return held
