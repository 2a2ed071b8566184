"""Search spaces: the contract that every space keeps, counted on real networks, then NAS-Bench-201's own figures."""

import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nshot
from helpers import SMALL, sample
from needs import TABLE, needs_table
from nshot import UserError
from nshot.nn.cells import live_edges
from nshot.report.run_data import retrain_flags
from nshot.spaces import Decision, Space, Subnet, space_from_dict
from nshot.spaces.nasbench201 import EDGES, NASBench201, NASBench201Supernet
from nshot.supernets.config import TrainConfig, from_dict, to_dict

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(params=nshot.list_spaces())
def space(request: pytest.FixtureRequest) -> Space:
    return nshot.space(request.param, **SMALL.get(request.param, {}))


@pytest.fixture
def nb201() -> NASBench201:
    return nshot.space("nasbench201")


@pytest.fixture
def small() -> NASBench201:
    return nshot.space("nasbench201", **SMALL["nasbench201"])


def images(space: Space, count: int) -> Tensor:
    resolution = getattr(space, "resolution", 32)
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def count_params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def count_flops(network: nn.Module, image: Tensor) -> int:
    """torch's count, a multiplication and an addition apart."""
    if hasattr(network, "fast"):
        network.fast = False  # torch counts its own operations alone
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image)
    return counter.get_total_flops()


def few(space: Space, seed: int) -> Space:
    """A random restriction to eight subnets: two options of three decisions, one of the others."""
    rng = np.random.default_rng(seed)
    free = rng.permutation([i for i, d in enumerate(space.decisions) if len(d.allowed) > 1])[:3]
    for i, decision in enumerate(space.decisions):
        chosen = rng.choice(decision.allowed, 2 if i in free else 1, replace=False)
        space = space.restrict(decision.name, *(decision.options[j] for j in chosen))
    return space


# The contract of every space


def test_a_space_read_back_from_json_is_the_same(space: Space) -> None:
    """Equal, of one hash, of the same types: what JSON keeps as lists are tuples again; of every preset too."""
    presets = [nshot.space(space.name, **preset.get("sizes", {})) for preset in space.presets.values()]
    for one in (space, few(space, 0), type(space)(), *presets):
        stored = json.loads(json.dumps(one.to_dict()))
        back = space_from_dict(stored)
        assert back == one
        assert hash(back) == hash(one)
        assert repr(back) == repr(one)
        config = from_dict(json.loads(json.dumps(to_dict(TrainConfig(space=one, dataset="digits")))))
        assert (config.space, hash(config.space)) == (one, hash(one))
        flags, wanted = (retrain_flags(TrainConfig(space=each, dataset="digits")) for each in (config.space, one))
        assert flags == wanted
        assert not set("[](),") & set(flags)


def test_samples_are_subnets(space: Space) -> None:
    subnets = sample(space, 200)
    assert len(set(subnets)) > 100
    for subnet in subnets:
        assert tuple(json.loads(json.dumps(subnet))) == subnet
        assert len(subnet) == len(space.decisions)
        assert all(0 <= i < len(d.options) for i, d in zip(subnet, space.decisions, strict=True))
    for i, decision in enumerate(space.decisions):
        assert {subnet[i] for subnet in subnets} == set(decision.allowed)


def test_sampling_depends_on_the_generator_alone(space: Space) -> None:
    first = sample(space, 10)
    np.random.seed(3)
    torch.manual_seed(3)
    assert sample(space, 10) == first != sample(space, 10, seed=1)


def test_sampling_is_uniform(space: Space) -> None:
    """Chi-square: options of each decision, pairs of neighbouring decisions, and whole subnets of a small space."""
    subnets = np.array(sample(space, 6000))
    values = []
    for i, decision in enumerate(space.decisions):
        counts = np.bincount(subnets[:, i], minlength=len(decision.options))
        values.append(chisquare(counts[list(decision.allowed)]).pvalue)
    for i, (a, b) in enumerate(itertools.pairwise(space.decisions)):
        pairs = subnets[:, i] * len(b.options) + subnets[:, i + 1]
        counts = np.bincount(pairs, minlength=len(a.options) * len(b.options))
        values.append(chisquare(counts[counts_of(a, b)]).pvalue)
    restricted = few(space, 0)
    drawn = sample(restricted, 4000)
    values.append(chisquare([drawn.count(subnet) for subnet in restricted.subnets()]).pvalue)
    assert min(values) > 1e-3 / len(values)


def counts_of(a: Decision, b: Decision) -> list[int]:
    """Where pairs of options that are allowed stand among all pairs."""
    return [i * len(b.options) + j for i in a.allowed for j in b.allowed]


def test_notation_round_trip(space: Space) -> None:
    subnets = set(sample(space, 200))
    texts = {space.format(subnet): subnet for subnet in subnets}
    assert len(texts) == len(subnets)
    assert all(space.parse(text) == subnet for text, subnet in texts.items())


def test_canonical_is_idempotent(space: Space) -> None:
    for subnet in sample(space, 200):
        assert space.canonical(space.canonical(subnet)) == space.canonical(subnet)


def uncounted(space: Space) -> int:
    """The bias of NAS-Bench-201's classifier, which C(α) does not count, as released."""
    return space.num_classes if space.name == "nasbench201" else 0


def test_costs_are_those_of_the_networks(space: Space) -> None:
    supernet, image = space.supernet(), images(space, 1)
    for subnet in sample(space, 200):
        network = nshot.extract(supernet, subnet)
        assert count_params(network) == space.params(subnet) + uncounted(space)
        assert count_flops(network, image) == 2 * space.flops(subnet)


def test_stand_alone_network(space: Space) -> None:
    for subnet in sample(space, 20):
        network = space.network(subnet)
        assert count_params(network) == space.network_params(subnet)
        assert network(images(space, 2)).shape == (2, space.num_classes)


@pytest.mark.parametrize("seed", range(3))
def test_ranges_are_those_of_all_networks(space: Space, seed: int) -> None:
    restricted, image = few(space, seed), images(space, 1)
    supernet = restricted.supernet()
    networks = [nshot.extract(supernet, s) for s in itertools.product(*(d.allowed for d in restricted.decisions))]
    params = [count_params(network) for network in networks]
    flops = [count_flops(network, image) // 2 for network in networks]
    assert restricted.params_range == (min(params) - uncounted(space), max(params) - uncounted(space))
    assert restricted.flops_range == (min(flops), max(flops))


def test_ranges_hold_every_sample(space: Space) -> None:
    for measure in ("params", "flops"):
        cost, (low, high) = space.complexity(measure)
        costs = [cost(subnet) for subnet in sample(space, 500)]
        assert low <= min(costs) < max(costs) <= high


@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
def test_extracted_network_computes_the_same_bits(space: Space, memory_format: torch.memory_format) -> None:
    supernet = space.supernet().to(memory_format=memory_format)
    x = images(space, 4).contiguous(memory_format=memory_format)
    logits = set()
    for subnet in sample(space, 30):
        network = nshot.extract(supernet, subnet)
        with torch.no_grad():
            expected = supernet(x, subnet)
            assert torch.equal(network(x), expected)
        assert all(p.is_contiguous(memory_format=memory_format) for p in network.parameters() if p.dim() == 4)
        assert expected.shape == (4, space.num_classes)
        logits.add(tuple(expected.flatten().tolist()))
    assert len(logits) > 25  # and different subnets compute different things


def test_extracted_weights_are_a_trainable_copy(space: Space) -> None:
    supernet, x = space.supernet(), images(space, 4)
    before = [p.detach().clone() for p in supernet.parameters()]
    network = nshot.extract(supernet, sample(space, 1)[0])
    network(x).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert all(torch.equal(a, b) for a, b in zip(before, supernet.parameters(), strict=True))
    assert all(p.grad is None for p in supernet.parameters())


def test_canonical_form_computes_the_same(space: Space) -> None:
    supernet, x = space.supernet().double(), images(space, 4).double()
    with torch.no_grad():
        for subnet in sample(space, 30):
            form = space.canonical(subnet)
            assert form in space
            assert space.network_params(form) <= space.network_params(subnet)
            torch.testing.assert_close(supernet(x, form), supernet(x, subnet), rtol=0, atol=1e-9)


def test_number_of_classes(space: Space) -> None:
    subnet = sample(space, 1)[0]
    assert space.supernet(num_classes=7)(images(space, 2), subnet).shape == (2, 7)
    assert space.network(subnet, num_classes=7)(images(space, 2)).shape == (2, 7)
    assert nshot.extract(space.supernet(num_classes=7), subnet)(images(space, 2)).shape == (2, 7)


def test_restrict(space: Space) -> None:
    first = space.decisions[0]
    restricted = space.restrict(first.name, first.options[-1])
    assert restricted.size * len(first.options) == space.size
    assert {s[0] for s in sample(restricted, 50)} == {len(first.options) - 1}  # the index it had
    subnet = sample(restricted, 1)[0]
    assert restricted.parse(space.format(subnet)) == subnet
    assert restricted.params(subnet) == space.params(subnet)
    assert restricted.flops(subnet) == space.flops(subnet)
    sizes = [count_params(space.restrict(first.name, option).supernet()) for option in first.options]
    whole = count_params(space.supernet())
    assert min(sizes) < whole  # where weights are entangled the largest option needs them all
    assert max(sizes) <= whole


def test_restrict_partitions(space: Space) -> None:
    """The parts of any decision hold every subnet of the space, each one once."""
    small = few(space, 1)
    for decision in small.decisions:
        parts = [small.restrict(decision.name, decision.options[i]) for i in decision.allowed]
        assert sorted(subnet for part in parts for subnet in part.subnets()) == list(small.subnets())
        assert [sum(subnet in part for part in parts) for subnet in small.subnets()] == [1] * small.size


def test_restrict_twice(space: Space) -> None:
    first, last = space.decisions[0], space.decisions[-1]
    restricted = space.restrict(first.name, *first.options[:2]).restrict(last.name, last.options[1])
    assert restricted.size == space.size * 2 // (len(first.options) * len(last.options))
    assert {(s[0], s[-1]) for s in sample(restricted, 50)} == {(0, 1), (1, 1)}
    narrower = restricted.restrict(first.name, first.options[1])
    assert {(s[0], s[-1]) for s in sample(narrower, 50)} == {(1, 1)}
    with pytest.raises(UserError, match=first.options[0]):
        narrower.restrict(first.name, first.options[0])


def test_restrict_names_an_option_twice(space: Space) -> None:
    first = space.decisions[0]
    twice = space.restrict(first.name, first.options[0], first.options[0])
    assert twice.size == space.restrict(first.name, first.options[0]).size


def test_small_space_lists_its_subnets(space: Space) -> None:
    restricted = few(space, 0)
    subnets = list(restricted.subnets())
    assert len(set(subnets)) == len(subnets) == restricted.size == 8
    assert subnets == sorted(subnets)
    assert set(sample(restricted, 200)) == set(subnets)


def test_spaces_compare_by_their_sizes(space: Space) -> None:
    again = nshot.space(space.name, **SMALL.get(space.name, {}))
    first = space.decisions[0]
    assert again == space
    assert space.restrict(first.name, first.options[0]) != space
    assert nshot.space(space.name, **{**SMALL.get(space.name, {}), "num_classes": 7}) != space


def test_bad_subnets(space: Space) -> None:
    subnet, supernet = sample(space, 1)[0], space.supernet()
    name, options = space.decisions[0].name, space.decisions[0].options
    bad = {subnet[:-1]: "decisions", (*subnet, 0): "decisions", (): "decisions"}
    bad |= {(len(options), *subnet[1:]): f"option {len(options)} of decision '{name}'"}
    bad |= {(-1, *subnet[1:]): f"option -1 of decision '{name}'"}
    for wrong, message in bad.items():
        for use in (space.check, space.format, space.network, lambda s: nshot.extract(supernet, s)):
            with pytest.raises(UserError, match=message):
                use(wrong)


def test_unknown_decision_and_option(space: Space) -> None:
    first = space.decisions[0]
    with pytest.raises(UserError, match=f"unknown decision '9<-8'.*{first.name}"):
        space.restrict("9<-8", first.options[0])
    with pytest.raises(UserError, match=f"option 'conv_9x9'.*{first.options[0]}"):
        space.restrict(first.name, "conv_9x9")
    with pytest.raises(UserError, match=first.name):
        space.restrict(first.name)


def test_unknown_size(space: Space) -> None:
    with pytest.raises(UserError, match=f"'chanels'.*{space.name}.*num_classes"):
        nshot.space(space.name, chanels=4)


def test_bad_notation(space: Space) -> None:
    for text in ("", "nonsense", "|", "-1", space.format(sample(space, 1)[0])[:-3]):
        with pytest.raises(UserError):
            space.parse(text)


def test_unknown_space() -> None:
    with pytest.raises(UserError, match=r"unknown space 'nasbench301'.*nasbench201"):
        nshot.space("nasbench301")


# NAS-Bench-201


def all_subnets() -> list[Subnet]:
    return list(itertools.product(range(5), repeat=6))


NONE, SKIP, CONV1, CONV3, POOL = range(5)
PATHS = [[(3, 0)], [(1, 0), (3, 1)], [(2, 0), (3, 2)], [(1, 0), (2, 1), (3, 2)]]  # edges of each way from 0 to 3


def on_a_path(subnet: Subnet) -> set[int]:
    """The edges on some way from the cell's input to its output that has no ``none``, by trying all ways."""
    ways = [[EDGES.index(edge) for edge in path] for path in PATHS]
    return {e for way in ways if all(subnet[e] != NONE for e in way) for e in way}


def test_order_of_decisions_and_options(nb201: NASBench201) -> None:
    assert [d.name for d in nb201.decisions] == ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"]
    ops = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    assert all(d.options == ops for d in nb201.decisions)
    assert nb201.size == 15_625


def test_params_of_all_subnets(nb201: NASBench201) -> None:
    for subnet in all_subnets():
        assert nb201.params(subnet) == 72_752 + 26_880 * subnet.count(CONV1) + 241_920 * subnet.count(CONV3)
    assert nb201.params_range == (72_752, 1_524_272)


def test_all_3x3_network(nb201: NASBench201) -> None:
    subnet = (CONV3,) * 6
    network = nb201.network(subnet)
    assert count_params(network) == nb201.network_params(subnet) == 1_531_546
    assert count_flops(network, images(nb201, 1)) == 2 * nb201.flops(subnet) == 2 * 220_119_680


def test_all_notations_and_indices(nb201: NASBench201) -> None:
    for index, subnet in enumerate(all_subnets()):
        assert nb201.parse(nb201.format(subnet)) == subnet
        assert nb201.at(index) == nb201.parse(f"released:{index}") == subnet
        assert nb201.index(subnet) == index


def test_index_has_the_first_edge_most_significant(nb201: NASBench201) -> None:
    assert nb201.index((2, 0, 0, 0, 0, 1)) == 2 * 5**5 + 1
    rng = np.random.default_rng(0)
    for index in rng.integers(15_625, size=100).tolist():
        assert nb201.at(index) == tuple(np.unravel_index(index, (5,) * 6))


def test_format_is_the_benchmarks(nb201: NASBench201) -> None:
    text = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    assert nb201.format((POOL, CONV1, SKIP, CONV1, SKIP, SKIP)) == text


def test_live_edges_of_all_subnets() -> None:
    found = {}
    for subnet in all_subnets():
        live = on_a_path(subnet)
        found[subnet] = tuple(op if e in live else NONE for e, op in enumerate(subnet))
        assert live_edges(subnet) == found[subnet]
    assert len(set(found.values())) == 9_445
    assert sum(form == (NONE,) * 6 for form in found.values()) == 341


def test_subnet_without_path(small: NASBench201) -> None:
    subnet = (CONV3, POOL, CONV1, NONE, NONE, NONE)
    assert not on_a_path(subnet)
    supernet = small.supernet()
    logits = supernet(images(small, 4), subnet)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in supernet.parameters())


def edge_weights(supernet: NASBench201Supernet) -> dict[tuple[int, int], list[nn.Parameter]]:
    """(edge, option) to its weights in all cells."""
    weights: dict[tuple[int, int], list[nn.Parameter]] = {}
    for stage in supernet.stages:
        for cell in stage:
            for e, edge in enumerate(cell.edges):
                for option, name in ((CONV1, "nor_conv_1x1"), (CONV3, "nor_conv_3x3")):
                    if name in edge:
                        weights.setdefault((e, option), []).append(edge[name].conv.weight)
    return weights


def test_only_live_weights_get_gradients(small: NASBench201) -> None:
    supernet, x = small.supernet(), images(small, 4)
    dead = 0
    for subnet in sample(small, 40):
        supernet.zero_grad()
        F.cross_entropy(supernet(x, subnet), torch.tensor([0, 1, 2, 3])).backward()
        live = on_a_path(subnet)
        for (edge, option), weights in edge_weights(supernet).items():
            for weight in weights:
                if edge in live and subnet[edge] == option:
                    assert weight.grad is not None
                    assert weight.grad.any()
                else:
                    assert weight.grad is None or not weight.grad.any()
                    dead += subnet[edge] == option
    assert dead > 10  # convolutions on the subnet but on no path were among them


def reference(supernet: NASBench201Supernet, x: Tensor, subnet: Subnet) -> Tensor:
    """The network of Dong and Yang written out: every edge is computed, ``none`` gives zeros, no edge is skipped."""

    def conv_norm(module: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
        weight = module.conv.weight
        return F.batch_norm(F.conv2d(x, weight, None, stride, weight.shape[-1] // 2), None, None, training=True)

    def pool(x: Tensor) -> Tensor:  # an average of the pixels that exist
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(torch.ones_like(x), 3, 1, 1)

    x = conv_norm(supernet.stem, x)
    for i, stage in enumerate(supernet.stages):
        if i > 0:
            block = supernet.reductions[i - 1]
            out = conv_norm(block.conv_b, conv_norm(block.conv_a, x.relu(), stride=2).relu())
            x = F.conv2d(F.avg_pool2d(x, 2), block.shortcut.weight) + out
        for cell in stage:
            nodes = [x, torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)]
            for (target, source), op, edge in zip(EDGES, subnet, cell.edges, strict=True):
                value = nodes[source]
                if op == NONE:
                    continue
                if op in (CONV1, CONV3):
                    value = conv_norm(edge["nor_conv_1x1" if op == CONV1 else "nor_conv_3x3"], value.relu())
                elif op == POOL:
                    value = pool(value)
                nodes[target] = nodes[target] + value
            x = nodes[3]
    x = F.batch_norm(x, None, None, training=True).relu().mean((2, 3))
    return x @ supernet.classifier.weight.T + supernet.classifier.bias


def test_supernet_computes_the_papers_network() -> None:
    space = nshot.space("nasbench201", channels=4, cells=2, resolution=16)
    supernet, x = space.supernet().double(), images(space, 4).double()
    with torch.no_grad():
        for subnet in sample(space, 60):
            assert torch.allclose(supernet(x, subnet), reference(supernet, x, subnet), rtol=0, atol=1e-9)


def test_restricted_supernet_has_only_its_weights(small: NASBench201) -> None:
    restricted = small.restrict("1<-0", "none", "nor_conv_3x3").restrict("3<-2", "nor_conv_1x1")
    held = set(edge_weights(restricted.supernet()))
    both = {(e, option) for e in range(1, 5) for option in (CONV1, CONV3)}
    assert held == {(0, CONV3), (5, CONV1)} | both
    squares = 4**2 + 8**2 + 16**2
    full, less = count_params(small.supernet()), count_params(restricted.supernet())
    assert full - less == squares * (1 + 9)  # 1x1 of the first edge, 3x3 of the last


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resolution": 30}, "resolution 30.*multiple of 4"),
        ({"resolution": 0}, "resolution 0"),
        ({"channels": 0}, "channels 0"),
        ({"cells": -1}, "cells -1"),
        ({"num_classes": 0}, "num_classes 0"),
    ],
)
def test_impossible_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nshot.space("nasbench201", **sizes)


ODD = ["", "released:", "released:-1", "released:+1", "released:1.0", "released:1e3", "released:0x1", "released: 1",
       "released:" + "9" * 5000, ":1", "released:released:1", "١", "-1", "1.5", "None"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("released:15625", "15625.*0 to 15624"),
        ("1", "'1': a number needs its order; write released:1 "),
        (" 0007 ", "'7': a number needs its order; write released:7 "),
        ("nats:1", r"'nats:1': only a table that nshot benchmark import made .* api\.arch\(1\)"),
        ("official:1", "unknown order 'official' of 'official:1': write released:1, or the notation"),
        ("Released:1", "unknown order 'Released'"),
        *((text, "is no nasbench201 subnet") for text in ODD),
        ("|none~0|+|none~0|none~1|", "is no nasbench201 subnet"),
        ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", "is no nasbench201 subnet"),
        ("|conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|", "unknown operation 'conv_5x5'.*nor_conv_3x3"),
    ],
)
def test_bad_arch_strings(nb201: NASBench201, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nb201.parse(text)


def test_subnet_outside_a_restricted_space(nb201: NASBench201) -> None:
    restricted = nb201.restrict("1<-0", "nor_conv_3x3")
    for text in ("released:0", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"):
        with pytest.raises(UserError, match="option 0 of decision '1<-0'"):
            restricted.parse(text)


@needs_table
def test_the_benchmarks_table_agrees(nb201: NASBench201) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(TABLE, columns=["index", "arch", "params_m"]).to_pydict()
    assert table["index"] == list(range(15_625))
    assert table["arch"] == [nb201.format(nb201.at(i)) for i in range(15_625)]
    ours = np.array([nb201.network_params(subnet) for subnet in all_subnets()]) / 1e6
    agree = np.abs(ours - np.array(table["params_m"])) <= 5.1e-4  # the table has three decimals
    assert agree.sum() == 15_625 - 204  # the benchmark's own column is off, up and down, for these
