"""Which test files take long: `make test-fast` leaves them out; and the data set of several modules."""

import pytest

SLOW = {
    "as_configured",
    "auto", "benchmarks", "board", "cli", "compare", "contract", "cream", "damage", "darts_method", "data", "digests",
    "distributed", "documents", "draw", "drop", "equal", "evolution", "export", "fast", "feasible", "few",
    "files", "forms", "gdas", "gradients", "handover", "hostile", "intervals", "journey", "latency", "locks",
    "matrix", "methods", "metrics", "mixed", "mixture", "mobilenet", "names", "naming", "nats", "network_page",
    "own", "own_answer", "own_job", "own_method", "own_supernet", "pinas", "processes", "quickstart", "recipes",
    "report", "runs", "scores", "search", "shift", "space_errors", "spaces", "speed", "split", "stopping",
    "strangers", "studies", "systems", "unwritable", "verdict", "whole", "zero_cost",
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    from nshot.data.sources import load

    return load("digits", resolution=8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW or item.path.parent.name == "faults":
            item.add_marker(pytest.mark.slow)
