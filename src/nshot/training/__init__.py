"""Training: the loop, run folders, checkpoints, and retraining of the subnet that was picked."""
