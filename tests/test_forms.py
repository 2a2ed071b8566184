"""Forms of NAS-Bench-201: which subnets compute the same with one supernet's weights, and which the same trained alone.

Counted here by other means than the library's: outputs of all 15,625 networks, all ways to move weights, texts.
"""

import itertools
import subprocess
import sys
import time
from collections import defaultdict
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nshot
from helpers import SMALL
from nshot import UserError
from nshot.spaces import FewShot, Space, Subnet
from nshot.spaces.nasbench201 import EDGES, NASBench201, NASBench201Supernet

SPACE: NASBench201 = nshot.space("nasbench201", channels=2, cells=1, resolution=8)
ALL = list(SPACE.subnets())
NONE, SKIP, CONV1, CONV3, POOL = range(5)
NAMES = {CONV1: "nor_conv_1x1", CONV3: "nor_conv_3x3"}
PATHS = [[0, 4], [1, 5], [0, 2, 5], [3]]  # edges of each way from a cell's input to its output


@pytest.fixture
def nb201() -> NASBench201:
    return nshot.space("nasbench201")


def drawn(seed: int) -> tuple[NASBench201Supernet, Tensor]:
    """A supernet of float64 with weights of its own, and four images."""
    torch.manual_seed(seed)
    supernet = SPACE.supernet().double()
    supernet.fast = False
    return supernet, torch.randn(4, 3, 8, 8, dtype=torch.float64)


def norm(x: Tensor) -> Tensor:
    """Batch norm of (subnets, images, channels, height, width), each subnet by itself."""
    variance, mean = torch.var_mean(x, (1, 3, 4), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x.flatten(0, 1), weight, None, stride, weight.shape[-1] // 2).unflatten(0, x.shape[:2])


def pool(x: Tensor, *sizes: int) -> Tensor:
    return F.avg_pool2d(x.flatten(0, 1), *sizes, count_include_pad=False).unflatten(0, x.shape[:2])


def logits(supernet: NASBench201Supernet, x: Tensor, subnets: Tensor) -> Tensor:
    """(S, images, classes): the network of Dong and Yang written out, for many subnets (S, 6) at once."""
    x = norm(conv(x[None], supernet.stem.conv.weight)).expand(len(subnets), -1, -1, -1, -1)
    for i, (cell,) in enumerate(supernet.stages):
        if i > 0:
            block = supernet.reductions[i - 1]
            inner = norm(conv(x.relu(), block.conv_a.conv.weight, 2))
            residual = norm(conv(inner.relu(), block.conv_b.conv.weight))
            x = conv(pool(x, 2), block.shortcut.weight) + residual
        nodes = [x, *(torch.zeros_like(x) for _ in range(3))]
        for e, (target, source) in enumerate(EDGES):
            for op in (SKIP, CONV1, CONV3, POOL):
                rows = (subnets[:, e] == op).nonzero()[:, 0]
                if not len(rows):
                    continue
                value = nodes[source][rows]
                if op in NAMES:
                    value = norm(conv(value.relu(), cell.edges[e][NAMES[op]].conv.weight))
                elif op == POOL:
                    value = pool(value, 3, 1, 1)
                nodes[target].index_add_(0, rows, value)
        x = nodes[3]
    return norm(x).relu().mean((3, 4)) @ supernet.classifier.weight.T + supernet.classifier.bias


@pytest.fixture(scope="module")
def every() -> np.ndarray:
    """Logits (15,625, ...) of all subnets with three draws of weights."""
    found = []
    with torch.no_grad():
        for seed in range(3):
            supernet, x = drawn(seed)
            parts = torch.tensor(ALL).split(500)
            found.append(torch.cat([logits(supernet, x, part) for part in parts]).flatten(1))
            for i in np.random.default_rng(seed).integers(len(ALL), size=20):
                torch.testing.assert_close(found[-1][i], supernet(x, ALL[i]).flatten(), rtol=0, atol=1e-10)
    return torch.cat(found, dim=1).numpy()


@pytest.fixture(scope="module")
def groups(every: np.ndarray) -> np.ndarray:
    """A number for each subnet (15,625,), equal for equal outputs: neighbours along a random direction."""
    line = every @ np.random.default_rng(0).normal(size=every.shape[1])
    order = np.argsort(line)
    gaps = np.diff(line[order])
    assert not ((gaps > 1e-11) & (gaps < 1e-9)).any()  # rounding, or another function
    numbers = np.empty(len(ALL), dtype=int)
    numbers[order] = np.append(0, np.cumsum(gaps > 1e-10))
    return numbers


def test_forms_are_equal_exactly_where_outputs_are(every: np.ndarray, groups: np.ndarray) -> None:
    members: dict[Subnet, list[int]] = defaultdict(list)
    for i, subnet in enumerate(ALL):
        members[SPACE.canonical(subnet)].append(i)
    assert len(members) == len(set(groups.tolist())) == 7_548
    for rows in members.values():
        assert len(set(groups[rows].tolist())) == 1
        assert np.ptp(every[rows], axis=0).max() < 1e-9


@pytest.mark.parametrize("kept", [{}, {0: (CONV3,)}, {1: (SKIP, CONV1), 4: (CONV1, CONV3), 5: (POOL, SKIP)}], ids=str)
def test_the_canonical_form_is_the_leanest_of_its_equals(kept: dict[int, tuple[int, ...]], groups: np.ndarray) -> None:
    """Of those that the space has."""
    space: Space = nshot.space("nasbench201", **SMALL["nasbench201"])
    for edge, options in kept.items():
        decision = space.decisions[edge]
        space = space.restrict(decision.name, *(decision.options[option] for option in options))
    equals: dict[int, list[Subnet]] = defaultdict(list)
    for subnet, group in zip(ALL, groups.tolist(), strict=True):
        if subnet in space:
            equals[group].append(subnet)
    for subnets in equals.values():
        lean = min(subnets, key=lambda s: (space.network_params(s), space.flops(s), s))
        assert {space.canonical(subnet) for subnet in subnets} == {lean}
        assert space.canonical(lean) == lean
    leaner = sum(
        space.network_params(space.canonical(s)) < space.network_params(s) for own in equals.values() for s in own
    )
    assert leaner == 4_250 if not kept else leaner > 0


def used(subnet: Subnet) -> list[int]:
    """Edges whose convolution changes the output: those on some way without ``none``."""
    ways = [path for path in PATHS if all(subnet[e] != NONE for e in path)]
    return [e for e in range(6) if subnet[e] in NAMES and any(e in path for path in ways)]


PRIME = 2**31 - 1
IMAGE, AVERAGE, *KINDS = np.random.default_rng(0).integers(PRIME, size=6).tolist()
WEIGHTS = tuple(np.random.default_rng(1).integers(PRIME, size=6).tolist())


def fingerprint(subnet: Subnet, given: tuple[int, ...] = WEIGHTS) -> tuple[int, ...]:
    """What a made-up cell gives for all ways to hand the same weights to its convolutions, sorted.

    Numbers modulo a prime stand for images: an average is a factor, a convolution of weight w makes w v (a v + b) of
    a value v, a and b by its kind.
    """
    edges = used(subnet)
    ways = np.array(list(itertools.permutations(given[: len(edges)])))
    weights = {e: ways[:, i] for i, e in enumerate(edges)}
    nodes = [np.full(len(ways), IMAGE), *(np.zeros(len(ways), dtype=int) for _ in range(3))]
    for e, (target, source) in enumerate(EDGES):
        value = nodes[source]
        if e in weights:
            a, b = KINDS[:2] if subnet[e] == CONV1 else KINDS[2:]
            value = value * ((a * value + b) % PRIME) % PRIME * weights[e] % PRIME
        elif subnet[e] != SKIP:  # a convolution that is not used is none
            value = value * AVERAGE % PRIME if subnet[e] == POOL else 0 * value
        nodes[target] = (nodes[target] + value) % PRIME
    return tuple(sorted(nodes[3].tolist()))


def test_twins_are_equal_exactly_where_weights_can_be_moved() -> None:
    prints, twins = {}, {}
    for subnet in ALL:
        twins[subnet] = SPACE.twin(subnet)
        prints[subnet] = fingerprint(subnet)
    assert len(set(twins.values())) == len(set(prints.values())) == 5_044
    assert len(set(zip(twins.values(), prints.values(), strict=True))) == 5_044
    for subnet, twin in twins.items():
        assert twins[twin] == twin == SPACE.canonical(twin)
        assert SPACE.twin(SPACE.canonical(subnet)) == twin
        assert SPACE.network_params(twin) == SPACE.network_params(SPACE.canonical(subnet))
    # Of the official table, 11,782 networks are listed more than once.
    counts = dict(zip(*np.unique(list(map(SPACE.index, twins.values())), return_counts=True), strict=True))
    assert sum(count for count in counts.values() if count > 1) == 11_782


def moved(supernet: NASBench201Supernet, edges: dict[int, int], subnet: Subnet) -> NASBench201Supernet:
    """The supernet with the weights of the subnet's edges at others."""
    found = deepcopy(supernet)
    for stage, own in zip(found.stages, supernet.stages, strict=True):
        for cell, before in zip(stage, own, strict=True):
            for source, target in edges.items():
                name = NAMES[subnet[source]]
                cell.edges[target][name].load_state_dict(before.edges[source][name].state_dict())
    return found


def some_move_makes_them_equal(a: Subnet, b: Subnet) -> bool:
    supernet, x = drawn(5)
    for targets in itertools.permutations(used(b)):
        edges = dict(zip(used(a), targets, strict=True))
        if all(a[source] == b[target] for source, target in edges.items()):
            with torch.no_grad():
                if torch.allclose(supernet(x, a), moved(supernet, edges, a)(x, b), rtol=0, atol=1e-9):
                    return True
    return False


def test_twins_compute_the_same_with_weights_moved() -> None:
    """And pairs of as many convolutions of each kind that are no twins do not, however their weights are moved."""
    rng = np.random.default_rng(0)
    alike: dict[tuple[int, ...], list[Subnet]] = defaultdict(list)
    for form in sorted(set(map(SPACE.canonical, ALL))):
        kinds, one = sorted(form[e] for e in used(form)), fingerprint(form, WEIGHTS[:1] * 6)[0]
        if len(kinds) <= 4:
            alike[tuple(kinds)].append(form)
            alike[(*kinds, one)].append(form)  # equal if all convolutions of a kind had the same weights
    pairs: dict[bool, list[tuple[Subnet, Subnet]]] = {True: [], False: []}
    for forms in alike.values():
        for a, b in itertools.islice(itertools.combinations([forms[i] for i in rng.permutation(len(forms))], 2), 50):
            pairs[SPACE.twin(a) == SPACE.twin(b)].append((a, b))
    for twins, found in pairs.items():
        assert len(found) > 500
        for i in rng.choice(len(found), 40, replace=False):
            assert some_move_makes_them_equal(*found[i]) == twins


def test_one_convolution_twice_is_not_two() -> None:
    """Where edges are forgotten, both are the sum of two 3x3 convolutions of the input, and 4,660 networks are left."""
    twice, two = (CONV3, NONE, SKIP, NONE, SKIP, SKIP), (CONV3, CONV3, NONE, NONE, SKIP, SKIP)
    one = {subnet: fingerprint(subnet, WEIGHTS[:1] * 6)[0] for subnet in set(map(SPACE.canonical, ALL))}
    assert len(set(one.values())) == 4_660
    assert one[SPACE.canonical(twice)] == one[SPACE.canonical(two)]
    assert SPACE.twin(twice) != SPACE.twin(two)
    other = (CONV3, NONE, NONE, CONV3, SKIP, NONE)
    assert SPACE.canonical(two) != SPACE.canonical(other)
    assert SPACE.twin(two) == SPACE.twin(other)


def text(subnet: Subnet, zeros: bool) -> str:
    """A cell as a text: a node is its inputs, sorted, with + between them; a skip is its source's text.

    An edge is a zero if it is ``none`` or its source's text is a zero. Where zeros are kept they stand in the sum too,
    so that a node of two or three of them is another text than a zero.
    """
    nodes = ["x"]
    for node in range(1, 4):
        terms = []
        for (target, source), op in zip(EDGES, subnet, strict=True):
            if target == node:
                zero = op == NONE or nodes[source] == "0"
                terms.append("0" if zero else nodes[source] if op == SKIP else f"[{nodes[source]}]{op}")
        nodes.append("+".join(sorted(term for term in terms if zeros or term != "0")) or "0")
    return nodes[-1]


def test_the_literatures_count_keeps_zeros() -> None:
    """Its 6,466 are more than 5,044: a zero that is added makes another network of one (5,390 are left without), and so
    does an average of a sum. Some it takes for one are two: it forgets edges."""
    assert len({text(subnet, zeros=True) for subnet in ALL}) == 6_466
    assert len({text(subnet, zeros=False) for subnet in ALL}) == 5_390
    average, averages = (CONV1, SKIP, SKIP, NONE, NONE, POOL), (CONV1, NONE, NONE, POOL, POOL, NONE)
    assert SPACE.canonical(average) == SPACE.canonical(averages)
    assert text(average, zeros=False) != text(averages, zeros=False)
    twice, two = (CONV3, NONE, SKIP, NONE, SKIP, SKIP), (CONV3, CONV3, NONE, NONE, SKIP, SKIP)
    assert SPACE.twin(twice) != SPACE.twin(two)
    assert text(twice, zeros=False) == text(two, zeros=False)


def test_forms_are_computed_when_they_are_asked_for(nb201: NASBench201) -> None:
    """And are then as quick as other figures of a subnet."""
    script = (
        "import nshot; from nshot.spaces import forms; s = nshot.space('nasbench201'); s.params_range; s.supernet();"
        "print(forms.outputs.cache_info().currsize); s.twin((1,) * 6); print(forms.outputs.cache_info().currsize)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["0", "1"]
    for form in (nb201.canonical, nb201.twin):
        form(ALL[0])
        begin = time.perf_counter()
        for subnet in ALL:
            form(subnet)
        assert (time.perf_counter() - begin) / len(ALL) < 20e-6


def test_forms_of_what_is_no_subnet(nb201: NASBench201) -> None:
    part = nb201.restrict("1<-0", "nor_conv_3x3")
    for form in (part.canonical, part.twin):
        assert form([3, 0, 0, 0, 0, 0]) == (3, 0, 0, 0, 0, 0)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="option 0 of decision '1<-0'"):
            form((0,) * 6)


def test_parts_have_forms_of_their_own() -> None:
    """Of several supernets each has other weights: the form of a subnet is of its part, whose option it keeps."""
    parts = [SPACE.restrict("3<-1", option) for option in SPACE.decisions[4].options]
    few = FewShot(SPACE, [part.supernet() for part in parts])
    for subnet in ALL:
        part = parts[subnet[4]]
        assert few.canonical(subnet) == part.canonical(subnet)
        assert few.canonical(subnet)[4] == subnet[4]
        assert part.network_params(few.canonical(subnet)) <= SPACE.network_params(subnet)


# other spaces


def test_mobilenet_has_no_equal_subnets() -> None:
    """All of a small restriction have outputs of their own."""
    space = nshot.space("mobilenet", **SMALL["mobilenet"])
    rng = np.random.default_rng(0)
    free = ("stage2.layer1", "stage2.layer2")
    for decision in space.decisions:
        if decision.name not in free:
            space = space.restrict(decision.name, decision.options[int(rng.choice(decision.allowed))])
    assert distinct(space) == space.size == 7 * 7
    assert len(set(map(space.canonical, space.subnets()))) == space.size


def distinct(space: Space) -> int:
    """How many subnets have other outputs than all others, to rounding, with one supernet's weights."""
    torch.manual_seed(0)
    supernet, x = space.supernet().double(), torch.randn(2, 3, space.resolution, space.resolution).double()
    supernet.fast = False
    with torch.no_grad():
        outputs = np.array([supernet(x, subnet).flatten().numpy() for subnet in space.subnets()])
    line = np.sort(outputs @ np.random.default_rng(0).normal(size=outputs.shape[1]))
    return 1 + int((np.diff(line) > 1e-9).sum())


@pytest.mark.parametrize("kept", [{}, {"layer2.heads": "4"}], ids=["whole", "restricted"])
def test_autoformer_has_one_form_for_each_output(kept: dict[str, str]) -> None:
    """And the leanest is as lean as any, and one of the space."""
    space = nshot.space("autoformer", **SMALL["autoformer"])
    for name, option in {"layer0.ratio": "3.5", "layer1.heads": "3", **kept}.items():
        space = space.restrict(name, option)
    forms = {space.canonical(subnet) for subnet in space.subnets()}
    assert distinct(space) == len(forms) < space.size
    for subnet in space.subnets():
        form = space.canonical(subnet)
        assert form in space
        assert (space.params(form), space.flops(form)) == (space.params(subnet), space.flops(subnet))


def test_darts_copies_of_a_node_are_not_seen_and_cost_the_same() -> None:
    """Nodes 0 and 1 of the normal cell are both the sum of its inputs; node 2 reads the one or the other by a skip."""
    space = nshot.space("darts", **SMALL["darts"])
    skip, base = 2, list(space.sample(np.random.default_rng(0)))
    base[:5] = [skip, skip, 0, skip, skip]
    base[7] = skip
    one, other = ((*base[:5], pair, *base[6:]) for pair in (1, 2))  # inputs 0 and 2, or 0 and 3
    torch.manual_seed(0)
    supernet, x = space.supernet().double(), torch.randn(2, 3, 8, 8).double()
    with torch.no_grad():
        assert torch.allclose(supernet(x, one), supernet(x, other), rtol=0, atol=1e-9)
    assert space.canonical(one) != space.canonical(other)
    assert space.network_params(one) == space.network_params(other)
    assert space.flops(one) == space.flops(other)


@pytest.mark.parametrize("name", sorted({*nshot.list_spaces()} - {"nasbench201"}))
def test_twins_are_forms_where_a_space_says_no_more(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    rng = np.random.default_rng(0)
    for subnet in (space.sample(rng) for _ in range(50)):
        assert space.twin(subnet) == space.canonical(subnet)
