"""What is refused before a supernet is trained, because the space or the machine has not what it asks for."""

import torch

from nshot.errors import UserError, statistics_needed
from nshot.nn.drop import set_drop_path
from nshot.nn.graphs import cuda_capture
from nshot.nn.synced import by_shares, synchronise
from nshot.strategies import strategies
from nshot.training import distributed
from nshot.training.tuning import check_head

from .config import TrainConfig
from .load import bare_supernet


def check_supernet(config: TrainConfig, device: torch.device) -> None:
    """Raises UserError where the space's supernet has not what is asked of it: drop-path, batch norms, CUDA graphs,
    what the method needs."""
    with torch.device("meta"):
        supernet = bare_supernet(config)
    set_drop_path(supernet, config.drop_path)
    if config.sync_bn == "on":
        if not synchronise(supernet) and not by_shares(supernet):
            raise UserError(f"sync_bn on: the supernet of space {config.space.name} has no batch norms, leave it out")
        if left := by_shares(supernet):
            raise UserError(
                f"sync_bn on: {left[0]} is a batch norm of a kind that cannot be synchronised, leave it out"
            )
    strategies[config.strategy].check(supernet)
    check_head(supernet, config.frozen, config.backbone_lr)
    if (config.frozen, config.backbone_lr) != (0, 1.0) and strategies[config.strategy].even(config.options):
        raise UserError(
            f"frozen {config.frozen}, backbone_lr {config.backbone_lr}: {config.strategy} with these options "
            "trains all weights at one rate, leave both out"
        )
    if config.options.ms is not None and config.optimizer == "sgd" and config.momentum == 0:
        raise UserError(
            f"ms {config.options.ms!r} has no effect with momentum 0, which has nothing to separate: add --momentum 0.9"
        )
    if config.graphs == "on" and config.frozen:
        raise UserError(f"frozen {config.frozen}: graphs are captured with the gradients of all weights, leave one out")
    if config.graphs == "on":
        if not strategies[config.strategy].replays:
            raise UserError(
                f"graphs on: {config.strategy} trains mixtures, which have no CUDA graphs; leave --graphs out"
            )
        supernet.use_graphs(cuda_capture)
        if device.type != "cuda":
            raise UserError(f"graphs on: needs a GPU of NVIDIA's, and this runs on {device.type}; leave --graphs out")


def goes_by_shares(config: TrainConfig) -> bool:
    """Whether each process's share of a batch has batch statistics of its own."""
    with torch.device("meta"):
        return config.sync_bn == "off" and bool(by_shares(bare_supernet(config)))


def check_batch(config: TrainConfig) -> None:
    """Raises UserError for batches that have no statistics: of one image, which the network shrinks to one pixel."""
    if config.batch_size > distributed.size():
        return
    side = config.space.resolution
    with torch.device("meta"), torch.no_grad(), statistics_needed():
        supernet = bare_supernet(config)
        supernet(torch.empty(1, 3, side, side), tuple(d.allowed[0] for d in config.space.decisions))
