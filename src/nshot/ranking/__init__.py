"""Ranking: accuracies of many subnets with the supernet's weights, and how well they order the true ones."""
