"""Augmentation of whole batches, seeded: random crop with padding, and horizontal flip."""

import torch
from torch import Tensor


def pad(pixels: Tensor, margin: int) -> Tensor:
    """Images (N, H, W, 3) with ``margin`` black pixels on every side."""
    n, h, w, c = pixels.shape
    padded = pixels.new_zeros(n, h + 2 * margin, w + 2 * margin, c)
    padded[:, margin : margin + h, margin : margin + w] = pixels
    return padded


def crop_flip(
    padded: Tensor, index: Tensor, margin: int, flip: bool, generator: torch.Generator, share: slice = slice(None)
) -> Tensor:
    """Random crops of ``padded[index]`` back to the unpadded size, half of them mirrored where ``flip``.

    Args:
        padded: uint8 (N, H + 2 margin, W + 2 margin, 3).
        index: int64 (B,).
        share: which of them are made; each comes out as it does among all.

    Returns:
        uint8 (B, H, W, 3).
    """
    n, h, w, c = padded.shape
    side = 2 * margin + 1
    # Every crop is a window of the padded image: a strided view (N, side, side, H, W, 3), gathered once.
    sn, sh, sw, sc = padded.stride()
    windows = padded.as_strided((n, side, side, h - 2 * margin, w - 2 * margin, c), (sn, sh, sw, sh, sw, sc))
    offset = torch.randint(side, (2, len(index)), generator=generator)[:, share].to(padded.device)
    batch = windows[index[share], offset[0], offset[1]]
    if flip:
        mirrored = (torch.rand(len(index), generator=generator) < 0.5)[share].to(padded.device)
        batch = torch.where(mirrored[:, None, None, None], batch.flip(2), batch)
    return batch
