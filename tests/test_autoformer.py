"""The AutoFormer space: published size, entangled weights and their gradients, attention by hand, inactive layers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nshot
from helpers import SMALL
from nshot import UserError
from nshot.nn.elastic import ElasticAttention
from nshot.spaces.autoformer import AutoFormer


@pytest.fixture(scope="module")
def space() -> AutoFormer:
    return nshot.space("autoformer")


@pytest.fixture
def small() -> AutoFormer:
    return nshot.space("autoformer", **SMALL["autoformer"])


def test_published_shape_has_its_published_size() -> None:
    """AutoFormer-T, 5.8M on ImageNet."""
    space = nshot.space("autoformer", ratios=(3.0, 3.5, 4.0), num_classes=1000)
    heads = ",".join("4" if layer == 11 else "3" for layer in range(1, 14))
    text = f"width=192 depth=13 heads={heads} ratio=3.5,3.5,3.0,3.5,3.0,3.0,4.0,4.0,3.5,4.0,3.5,4.0,3.5"
    assert space.params(space.parse(text)) == pytest.approx(5.8e6, rel=0.02)


def test_decisions(space: AutoFormer) -> None:
    assert len(space.decisions) == 2 + 2 * 14
    assert [d.options for d in space.decisions[:4]] == [
        ("192", "216", "240"),
        ("12", "13", "14"),
        ("3", "4"),
        ("3.5", "4.0"),
    ]


def test_ranges_by_hand(space: AutoFormer) -> None:
    """Costs rise with every option, so the extremes are the first and the last options."""
    assert space.params_range == (space.params((0,) * 30), space.params((2, 2) + (1,) * 28))
    assert space.flops_range == (space.flops((0,) * 30), space.flops((2, 2) + (1,) * 28))


def test_layers_beyond_the_depth_are_inactive(small: AutoFormer) -> None:
    assert small.decisions[1].options == ("2", "3")
    subnets = [(1, 0, 1, 0, 0, 1, heads, ratio) for heads in (0, 1) for ratio in (0, 1)]
    assert {small.canonical(subnet) for subnet in subnets} == {(1, 0, 1, 0, 0, 1, 0, 0)}
    deep = [(1, 1, *subnet[2:]) for subnet in subnets]
    assert len({small.canonical(subnet) for subnet in deep}) == 4
    supernet, images = small.supernet(), torch.randn(3, 3, 8, 8)
    assert all(supernet(images, subnet).equal(supernet(images, subnets[0])) for subnet in subnets)
    assert small.params(subnets[0]) == small.params(subnets[3])


def test_gradients_of_slices_are_those_of_a_dense_copy(small: AutoFormer) -> None:
    supernet = small.supernet()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        subnet = small.sample(rng)
        dense = nshot.extract(supernet, subnet)
        supernet.zero_grad()
        for network, out in ((supernet, supernet(images, subnet)), (dense, dense(images))):
            assert out.shape == (8, 10)
            F.cross_entropy(out, labels).backward()
            del network
        own = dict(dense.named_parameters())
        for name, parameter in supernet.named_parameters():
            if name not in own:
                assert parameter.grad is None  # a layer beyond the depth
                continue
            inside = tuple(slice(size) for size in own[name].shape)
            torch.testing.assert_close(parameter.grad[inside], own[name].grad)
            outside = parameter.grad.clone()
            outside[inside] = 0
            assert not outside.any()


@pytest.mark.parametrize("relative", [False, True])
def test_attention_is_the_formula(relative: bool) -> None:
    """Head by head and token by token; distances are clipped, and the class token has one of its own."""
    torch.manual_seed(0)
    side, dim, heads, width = 4, 3, 2, 5
    attention = ElasticAttention(width, 3, dim, side, relative)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 1 + side * side, width)
    rows = attention.qkv.weight[: 3 * heads * dim] @ x.transpose(1, 2) + attention.qkv.bias[: 3 * heads * dim, None]
    outs = []
    for head in range(heads):
        q, k, v = (rows[:, which::3].transpose(1, 2)[..., head * dim : (head + 1) * dim] for which in range(3))
        scores = q @ k.transpose(1, 2)
        keys, values = torch.zeros(17, 17, dim), torch.zeros(17, 17, dim)
        if relative:
            for i in range(17):
                for j in range(17):
                    down, right = 0, 0
                    if i and j:
                        (a, b), (c, d) = divmod(i - 1, side), divmod(j - 1, side)
                        down, right = c - a + 15, d - b + 15
                    for table, position in ((keys, attention.key_position), (values, attention.value_position)):
                        table[i, j] = position.vertical[down] + position.horizontal[right]
        scores = scores + torch.einsum("nid,ijd->nij", q, keys)
        weights = (scores / math.sqrt(dim)).softmax(-1)
        outs.append(weights @ v + torch.einsum("nij,ijd->nid", weights, values))
    joined = torch.cat(outs, dim=-1)
    expected = joined @ attention.project.weight[:, : heads * dim].T + attention.project.bias
    torch.testing.assert_close(attention(x, heads), expected, rtol=1e-4, atol=1e-5)


def test_a_restricted_supernet_has_no_more_than_it_needs(small: AutoFormer) -> None:
    part = small.restrict("width", "16").restrict("depth", "2")
    supernet = part.supernet()
    assert supernet.embedding.out_channels == 16
    assert len(supernet.layers) == 2


def test_a_whole_ratio_needs_no_point(space: AutoFormer) -> None:
    start = f"width=192 depth=12 heads={','.join('3' * 12)} ratio="
    assert space.parse(start + ",".join(["3.5", "4"] * 6)) == space.parse(start + ",".join(["3.5", "4.0"] * 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width=192", "is no autoformer subnet: expected width=W depth=D"),
        ("width=200 depth=12 heads=3 ratio=4.0", "must have 12 to 14 entries"),
        (f"width=200 depth=12 heads={','.join('3' * 12)} ratio={','.join(['4.0'] * 12)}", "unknown width '200'"),
        (f"width=192 depth=12 heads={','.join('5' * 12)} ratio={','.join(['4.0'] * 12)}", "unknown layer0.heads '5'"),
        (f"width=192 depth=12 heads={','.join('3' * 12)} ratio={','.join(['x'] * 12)}", "unknown layer0.ratio 'x'"),
    ],
)
def test_bad_notation(space: AutoFormer, text: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        space.parse(text)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"resolution": 225}, "resolution 225: must be a multiple of the patch 16, such as 240"),
        ({"widths": (240, 192)}, "widths .*: must be rising"),
        ({"heads": ()}, "heads .*: must be rising"),
        ({"num_classes": 1}, "num_classes 1"),
    ],
)
def test_impossible_sizes(sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nshot.space("autoformer", **sizes)
