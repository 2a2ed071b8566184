"""Stand-alone networks: how one is trained, taught, and kept."""
