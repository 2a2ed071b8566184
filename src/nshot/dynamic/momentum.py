"""MS, momentum separation: one optimizer state a cluster of subnets, over shared weights (eqs. 7 and 8)."""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class SeparatedMomentum(Optimizer):
    """Gives any torch optimizer one state (momentum) for each cluster of subnets.

    ``optimizer.step(cluster=i)`` runs the wrapped optimizer with cluster i's state: ``μ_i ← β μ_i + g``,
    ``W ← W - lr μ_i`` (eq. 8) for SGD, and the same separation of both moments and the step count for AdamW. With one
    cluster it equals the wrapped optimizer bit for bit; with K it equals K optimizers over the same weights.

    Wrappers that call a bare ``step()`` (Fabric, GradScaler) work when ``optimizer.cluster = i`` is set before.
    A cluster's state is allocated when it is first stepped; of an optimizer that has some when it is wrapped, each
    cluster has a copy at once. ``state_dict`` is torch's own: in ``state``, a parameter's entry maps each cluster to
    what the wrapped optimizer keeps for it.

    Args:
        optimizer: the optimizer to separate. Its parameter groups are shared, so learning rate schedulers may hold
            either of the two.
        clusters: how many clusters, the options of the MS decision (eq. 7).

    Raises:
        ValueError: for fewer than one cluster; from ``step`` for a cluster out of range or, with several, none said.

    Example:
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> optimizer = nshot.SeparatedMomentum(torch.optim.SGD([weight], lr=1.0, momentum=0.5), clusters=2)
        >>> for cluster in (0, 1, 0):
        ...     weight.grad = torch.ones(1)
        ...     _ = optimizer.step(cluster=cluster)
        >>> weight.item()  # -1, -1, and -(0.5 + 1): cluster 1 left the momentum of cluster 0 alone
        -3.5
    """

    def __init__(self, optimizer: Optimizer, clusters: int) -> None:
        if clusters < 1:
            raise ValueError(f"clusters {clusters}: must be at least 1")
        self.base = optimizer
        self.clusters = clusters
        # In a list, so that wrappers which copy this object's attributes (Fabric) still set the one cluster there is.
        self._cluster: list[int | None] = [None if clusters > 1 else 0]
        initial = dict(optimizer.state)
        super().__init__(optimizer.param_groups, optimizer.defaults)
        for parameter, entry in initial.items():
            self.state[parameter] = {cluster: deepcopy(entry) for cluster in range(clusters)}
        self._share()

    @property
    def cluster(self) -> int | None:
        """Whose state the next bare ``step()`` uses."""
        return self._cluster[0]

    @cluster.setter
    def cluster(self, cluster: int | None) -> None:
        self._cluster[0] = cluster

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, cluster: int | None = None
    ) -> float | None:
        """One step of the wrapped optimizer with the state of ``cluster`` (default: the one set last)."""
        if cluster is not None:
            self.cluster = cluster
        chosen = self.cluster
        if chosen is None or not 0 <= chosen < self.clusters:
            raise ValueError(f"cluster {chosen}: step(cluster=i) needs one from 0 to {self.clusters - 1}")
        self.base.state = self._views[chosen]
        return self.base.step(closure)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.base.param_groups = self.param_groups

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` gave; raises ValueError where it holds more clusters than this optimizer."""
        for entry in state_dict["state"].values():
            if any(not isinstance(i, int) or i >= self.clusters for i in entry):
                raise ValueError(f"the state has clusters {sorted(entry, key=str)}, this optimizer has {self.clusters}")
        super().load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        mine = ("base", "clusters", "_cluster")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in mine}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """(Re)connects the wrapped optimizer with this one's groups and per-cluster states."""
        self.base.param_groups = self.param_groups
        self._views = [_ClusterState(self.state, i) for i in range(self.clusters)]


class _ClusterState(defaultdict[Tensor, Any]):
    """The wrapped optimizer's ``state`` for one cluster: its entries live in the separated optimizer's own."""

    def __init__(self, state: dict[Tensor, Any], cluster: int) -> None:
        super().__init__()
        self._of = (state, cluster)

    def __missing__(self, parameter: Tensor) -> dict[str, Any]:
        state, cluster = self._of
        self[parameter] = state[parameter].setdefault(cluster, {})
        return self[parameter]

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()  # a copied or pickled optimizer makes its views anew
