"""Benchmarks: tables of true (stand-alone) accuracies; reading, building and importing them."""
