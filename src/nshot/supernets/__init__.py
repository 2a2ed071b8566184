"""Supernets: what determines one, training it in a run folder, scoring its subnets."""
