"""Data sets as tensors in memory: sources, augmentation, seeded batches."""
