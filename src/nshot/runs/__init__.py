"""A run is a folder: who holds it, what it is, what happened, where it goes on."""
