"""Scores that need no training: each against a computation of another kind, and what must hold of all."""

import math
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import SMALL
from nshot import UserError, space
from nshot.nn.cells import Reduction
from nshot.nn.elastic import ElasticBlock
from nshot.nn.inverted import InvertedResidual
from nshot.scores import COSTS, list_scores, score, scores
from nshot.scores.base import without_residuals
from nshot.spaces import list_spaces

SPACE = space("nasbench201", **SMALL["nasbench201"])
SUBNETS = [(3, 3, 3, 3, 3, 3), (1, 2, 3, 4, 1, 2), (2, 0, 1, 1, 0, 3)]
APART = (0, 0, 3, 0, 0, 0)  # no way through the cell
NETWORK = ["gradnorm", "synflow", "zen", "zico"]
NONE = torch.Generator()  # for scores that draw nothing


def batches(side: int = 8, images: int = 12, classes: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(5)
    return [
        (torch.randn(images, 3, side, side, generator=draw), torch.randint(classes, (images,), generator=draw))
        for _ in range(2)
    ]


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *layers)


def layers_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


# synflow


def test_synflow_of_a_linear_network_is_its_flow_once_a_layer() -> None:
    network = flat(nn.Linear(12, 5, bias=False), nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
    a, b, c = (layer.weight.detach().double().abs().numpy() for layer in layers_of(network))
    flow = (c @ b @ a).sum()
    assert scores["synflow"](network, batches(side=2), NONE) == pytest.approx(3 * flow, rel=1e-12)


@pytest.mark.parametrize("subnet", SUBNETS)
def test_synflow_of_a_cell_by_taking_each_layer_away(subnet) -> None:
    """R is linear in a layer's weights: Σ w ∂R/∂w is what R loses without the layer. No gradient is needed."""
    torch.manual_seed(0)
    network = SPACE.network(subnet)
    plain = deepcopy(network).double().eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # with mean 0 and variance 1 in evaluation mode: the identity
    for parameter in plain.parameters():
        parameter.data.abs_()
    image = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        whole, expected = plain(image).sum(), 0.0
        for layer in layers_of(plain):
            kept = layer.weight.data.clone()
            layer.weight.data.zero_()
            expected += float(whole - plain(image).sum())
            layer.weight.data = kept
    assert scores["synflow"](network, batches(), NONE) == pytest.approx(expected, rel=1e-9)
    assert expected > 0


# zico


def by_hand(a: np.ndarray, c: np.ndarray, images: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the cross entropy of softmax(c relu(a x)) by a and c."""
    x, y = images.flatten(1).double().numpy(), np.eye(3)[labels.numpy()]
    hidden = np.maximum(x @ a.T, 0)
    raised = np.exp(hidden @ c.T)
    error = (raised / raised.sum(1, keepdims=True) - y) / len(x)
    return ((error @ c) * (hidden > 0)).T @ x, error.T @ hidden


def test_zico_from_gradients_made_by_hand() -> None:
    torch.manual_seed(1)
    network = flat(nn.Linear(12, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    network.unused = nn.Linear(2, 2)  # no gradient reaches it: left out
    network.forward = lambda x: nn.Sequential(*list(network)[:4])(x)
    data = [(x.double(), y) for x, y in batches(side=2, classes=3)]
    for x, _ in data:
        x[:, 0, 0, 0] = 0  # a pixel that is always 0: its weights' gradients do not deviate
    a, c = (layer.weight.detach().numpy() for layer in layers_of(network)[:2])
    expected = 0.0
    for first, second in zip(by_hand(a, c, *data[0]), by_hand(a, c, *data[1]), strict=True):
        mean, deviation = (abs(first) + abs(second)) / 2, abs(first - second) / 2  # divisor n = 2
        expected += math.log((mean[deviation != 0] / deviation[deviation != 0]).sum())
    assert scores["zico"](network, data, NONE) == pytest.approx(expected, rel=1e-9)


def test_zico_cuts_residual_links_and_their_layers_do_not_count() -> None:
    torch.manual_seed(2)
    network = SPACE.network(SUBNETS[1])
    cut = deepcopy(network)
    for module in cut.modules():
        if isinstance(module, Reduction):
            module.shortcut.register_forward_hook(lambda module, given, out: torch.zeros_like(out))
    found = []
    for images, labels in batches():
        cut.zero_grad()
        F.cross_entropy(cut(images), labels).backward()
        weights = [layer.weight for layer in layers_of(cut)]
        found.append([(0 * w if w.grad is None else w.grad).detach().double().numpy().copy() for w in weights])
    expected, left_out = 0.0, 0
    for first, second in zip(*found, strict=True):
        deviation = np.std([first, second], axis=0)
        ratio = (np.mean([abs(first), abs(second)], axis=0)[deviation != 0] / deviation[deviation != 0]).sum()
        expected += math.log(ratio) if ratio else 0.0
        left_out += ratio == 0
    assert left_out == 2  # the two reductions' shortcuts
    assert scores["zico"](network, batches(), NONE) == pytest.approx(expected, rel=1e-4)


# gradnorm


def test_gradnorm_of_a_linear_network_in_closed_form_scales_with_the_images() -> None:
    network = flat(nn.Linear(12, 3)).double()
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    images, labels = batches(side=2, classes=3)[0]
    images = images.double()
    error = 1 / 3 - np.eye(3)[labels.numpy()]
    expected = np.linalg.norm(error.T @ images.flatten(1).numpy() / len(images))
    assert scores["gradnorm"](network, [(images, labels)], NONE) == pytest.approx(expected, rel=1e-12)
    assert scores["gradnorm"](network, [(3 * images, labels)], NONE) == pytest.approx(3 * expected, rel=1e-12)


def test_gradnorm_counts_weights_of_convolutions_and_linear_layers_alone() -> None:
    network = SPACE.network(SUBNETS[0])
    data = batches()
    plain = deepcopy(network)
    F.cross_entropy(plain(data[0][0]), data[0][1]).backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in plain.named_parameters()}
    expected = sum(norm for name, norm in norms.items() if name.endswith(("conv.weight", "shortcut.weight")))
    expected += norms["classifier.weight"]
    assert scores["gradnorm"](network, data, NONE) == pytest.approx(expected, rel=1e-5)


# zen


@pytest.mark.parametrize("subnet", SUBNETS)
def test_zen_by_hooks(subnet) -> None:
    """Weights and inputs drawn as documented; variances from what each norm was given in its two passes."""
    network = SPACE.network(subnet)
    plain, draw = deepcopy(network).train(), torch.Generator().manual_seed(3)
    given: dict[nn.Module, list[torch.Tensor]] = {}
    for module in plain.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = torch.randn(module.weight.shape, generator=draw)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
            module.register_forward_pre_hook(lambda module, x: given.setdefault(module, []).append(x[0]))
        elif isinstance(module, Reduction):
            module.shortcut.register_forward_hook(lambda module, x, out: torch.zeros_like(out))
    last: list[torch.Tensor] = []
    plain.last_norm.register_forward_hook(lambda module, x, out: last.append(F.relu(out)))
    x, epsilon = torch.randn(64, 3, 8, 8, generator=draw), torch.randn(64, 3, 8, 8, generator=draw)
    with torch.no_grad():
        plain(x), plain(x + 0.01 * epsilon)
    expected = math.log(np.mean([float((a - b).abs().sum()) for a, b in zip(*last, strict=True)]))
    for first, second in given.values():
        variances = [y.double().transpose(0, 1).flatten(1).numpy().var(axis=1, ddof=1) for y in (first, second)]
        expected += math.log(np.mean(0.81 + 0.09 * variances[0] + 0.10 * variances[1])) / 2
    found = scores["zen"](network, batches(), torch.Generator().manual_seed(3))
    assert found == pytest.approx(expected, rel=1e-4)


def test_zen_needs_batch_norms() -> None:
    transformer = space("autoformer", **SMALL["autoformer"])
    with pytest.raises(UserError, match=r"score zen needs batch norms.*AutoFormerNetwork has not both, leave zen out"):
        score("zen", transformer, next(transformer.subnets()), batches())


# all


def test_disconnected_subnets_come_last() -> None:
    data = batches()
    for name in NETWORK:
        others = [score(name, SPACE, subnet, data) for subnet in SUBNETS]
        assert score(name, SPACE, APART, data) < min(others)
    assert score("zen", SPACE, APART, data) == -math.inf
    assert score("synflow", SPACE, APART, data) == 0


@pytest.mark.parametrize("name", list_spaces())
def test_every_space_can_be_scored(name) -> None:
    here = space(name, **SMALL[name])
    subnet = here.sample(np.random.default_rng(1))
    data = batches(here.resolution, images=4)
    found = {each: score(each, here, subnet, data) for each in list_scores() if (each, name) != ("zen", "autoformer")}
    assert np.isfinite(list(found.values())).all()
    assert found["synflow"] > 0
    assert found["params"] == sum(weight.numel() for weight in here.network(subnet).parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        here.network(subnet).eval()(data[0][0][:1])
    assert found["flops"] == here.flops(subnet) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_what_changes_no_output_changes_no_score() -> None:
    """The canonical form may be scored in place of a subnet: with the same weights all are equal."""
    subnet = (3, 0, 0, 2, 0, 0)  # the first edge leads nowhere
    form = SPACE.canonical(subnet)
    assert form == (0, 0, 0, 2, 0, 0)
    for name in ("gradnorm", "synflow", "zico"):
        network, lean = SPACE.network(subnet), SPACE.network(form)
        lean.load_state_dict({key: network.state_dict()[key] for key in lean.state_dict()})
        data = batches()
        assert scores[name](network, data, NONE) == pytest.approx(scores[name](lean, data, NONE), rel=1e-6)
    for name in NETWORK:
        assert score(name, SPACE, subnet, batches()) == score(name, SPACE, form, batches())
    assert score("params", SPACE, subnet, []) > score("params", SPACE, form, [])


@pytest.mark.parametrize("name", NETWORK)
def test_a_score_follows_from_its_seed_alone(name) -> None:
    data = batches()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = score(name, SPACE, SUBNETS[1], data, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    score(name, SPACE, SUBNETS[0], data, seed=4)
    assert score(name, SPACE, SUBNETS[1], data, seed=4) == first
    assert score(name, SPACE, SUBNETS[1], data, seed=5) != first


@pytest.mark.parametrize("name", ["nasbench201", "mobilenet", "darts"])
def test_features_are_what_the_classifier_has_pooled(name) -> None:
    here = space(name, **SMALL[name])
    network = here.network(here.sample(np.random.default_rng(2))).eval()
    x = torch.randn(2, 3, here.resolution, here.resolution)
    features = network.feature_map(x)
    assert features.dim() == 4
    assert torch.allclose(network.classifier(features.mean((2, 3))), network(x), atol=1e-5)


def _reduction() -> tuple[nn.Module, list[nn.Module], tuple]:
    block = Reduction(3, 4, nn.BatchNorm2d)
    return block, [block.conv_b.conv], (torch.randn(2, 3, 8, 8),)


def _inverted() -> tuple[nn.Module, list[nn.Module], tuple]:
    block = InvertedResidual(4, 4, 3, 6, 1, nn.BatchNorm2d)
    return block, [block.project.conv], (torch.randn(2, 4, 8, 8),)


def _transformer() -> tuple[nn.Module, list[nn.Module], tuple]:
    block = ElasticBlock(8, 2, 4, 16, 2, relative=False)
    return block, [block.attention.project, block.contract], (torch.randn(2, 5, 8), 2, 16)


@pytest.mark.parametrize("make", [_reduction, _inverted, _transformer])
def test_without_its_residual_links_a_block_gives_what_its_layers_give(make) -> None:
    """With the last layers' weights 0 only the link carries anything."""
    block, last, given = make()
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    assert block(*given).abs().max() > 0
    assert without_residuals(block) is block
    assert block(*given).abs().max() == 0


def test_a_score_of_ones_own() -> None:
    @scores.register("mine")
    def mine(network: nn.Module, batches: list, generator: torch.Generator) -> float:
        return float(len(layers_of(network)))

    try:
        assert score("mine", SPACE, (3, 3, 3, 3, 3, 3), batches()) == 1 + 3 * 6 + 2 * 3 + 1
        assert "mine" in list_scores()
    finally:
        del scores._items["mine"]


def test_names() -> None:
    assert list_scores() == ["params", "flops", "gradnorm", "synflow", "zen", "zico"]
    assert list(COSTS) == ["params", "flops"]
    with pytest.raises(UserError, match="unknown score 'naswot': choose of params, flops, gradnorm"):
        score("naswot", SPACE, SUBNETS[0], batches())


@pytest.mark.parametrize("value", [torch.tensor(3.0), np.float32(3), 3])
def test_a_score_may_be_any_number(value: object) -> None:
    scores.register("mine")(lambda network, batches, generator: value)
    try:
        found = score("mine", SPACE, SUBNETS[0], batches())
        assert (type(found), found) == (float, 3.0)
    finally:
        del scores._items["mine"]


@pytest.mark.parametrize("name", ["loss", "params", "flops", "true", "arch", "zen"])
def test_names_that_a_table_has_already_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match=f"there is a score '{name}' already: choose another name"):
        scores.register(name)(lambda network, batches, generator: 1.0)


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 5), nn.BatchNorm1d(5), nn.InstanceNorm1d(5), nn.RMSNorm(5)])
def test_synflow_takes_every_norm_for_the_identity(norm: nn.Module) -> None:
    network = flat(nn.Linear(12, 5, bias=False), norm, nn.Linear(5, 3, bias=False))
    a, b = (layer.weight.detach().double().abs().numpy() for layer in layers_of(network))
    assert scores["synflow"](network, batches(side=2), NONE) == pytest.approx(2 * (b @ a).sum(), rel=1e-12)


def test_scores_in_threads_are_those_of_one() -> None:
    alone = [score("synflow", SPACE, subnet, batches()) for subnet in SUBNETS]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda subnet: score("synflow", SPACE, subnet, batches()), SUBNETS * 6))
    assert found == alone * 6
    assert torch.get_rng_state().equal(before)
