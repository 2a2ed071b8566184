"""What becomes of a retrained network: a folder that runs without nshot, predictions, and how good it is."""
