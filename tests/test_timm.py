"""The space of timm's networks: the largest subnet is timm's, smaller ones timm's own blocks with copied weights."""

import builtins
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import Tensor, nn

import nshot
from helpers import SMALL, nshot_, refuse
from needs import needs_kernels
from nshot import UserError
from nshot.nn.depthwise import fast_depthwise
from nshot.nn.sliced_blocks import SlicedResidual
from nshot.ranking.calibrate import calibrate
from nshot.spaces import Subnet
from nshot.spaces.timm import Timm
from nshot.spaces.timm_blocks import original, squeeze_rule
from nshot.spaces.timm_nets import TimmSupernet
from nshot.training.optimizers import RestingSlices, sgd

MODELS = ["tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_large_100", "mnasnet_small",
          "tf_mobilenetv3_small_minimal_100", "lcnet_050", "fbnetc_100", "semnasnet_075", "tinynet_e"]  # fmt: skip


@pytest.fixture
def space() -> Timm:
    return nshot.space("timm", **SMALL["timm"])


def largest(space: Timm) -> Subnet:
    return tuple(d.allowed[-1] for d in space.decisions)


def loaded(space: Timm, seed: int = 0) -> tuple[nn.Module, TimmSupernet]:
    """timm's network, with statistics and norms that are not those of a new one, and a supernet of its weights."""
    torch.manual_seed(seed)
    network = timm.create_model(space.model, num_classes=space.num_classes)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif value.dim() == 1:
            value.uniform_(0.5, 1.5)
    supernet = space.supernet()
    missing, unexpected = supernet.net.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith(("order", "inner")) for name in missing)
    return network, supernet


@pytest.mark.parametrize("side", [64, 67])
@pytest.mark.parametrize("model", MODELS)
def test_the_largest_subnet_is_timms_network(model: str, side: int) -> None:
    """Bit for bit in both modes; so are the statistics that training leaves."""
    space = nshot.space("timm", model=model, resolution=side, num_classes=7)
    network, supernet = loaded(space)
    for _, block in supernet.net.named_blocks():
        block.order_by_importance()
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        for training in (False, True, False):
            assert torch.equal(network.train(training)(x), supernet.train(training)(x, largest(space)))
    state = supernet.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert sum(p.numel() for p in network.parameters()) == space.params(largest(space))


def by_importance(scale: Tensor, weight: Tensor, count: int) -> list[int]:
    """Which channels are kept, by loops: the ``count`` of largest |scale| Σ|weight|, in rising order."""
    sums = [abs(float(s)) * float(weight[:, c].abs().sum()) for c, s in enumerate(scale)]
    return sorted(sorted(range(len(sums)), key=lambda c: -sums[c])[:count])


def shrunk(network: nn.Module, supernet: TimmSupernet, subnet: Subnet, pad: str) -> nn.Module:
    """timm's network with blocks of timm's own at the subnet's sizes, whose weights are copied channel by channel."""
    space = supernet.space
    for at, choice in zip(space.places, space.choices(subnet), strict=True):
        stage, i = map(int, at.name.split("."))
        old = network.blocks[stage][i]
        if not choice.kept:
            network.blocks[stage][i] = nn.Identity()
            continue
        if not isinstance(at.block, SlicedResidual):
            assert choice.hidden is None
            continue
        hidden, kernel = choice.hidden or at.block.hidden, choice.kernel or old.conv_dw.kernel_size[0]
        kept = by_importance(old.bn2.weight.detach(), old.conv_pwl.weight.detach(), hidden)
        se, inner = None, []
        if not isinstance(old.se, nn.Identity):
            squeeze = choice.squeeze or at.block.squeeze.conv_reduce.out_channels
            ones = torch.ones(old.se.conv_reduce.out_channels)
            inner = by_importance(ones, old.se.conv_expand.weight.detach(), squeeze)
            gate = type(old.se.gate)

            def se(
                c: int, act_layer: Any, *, n: int = squeeze, g: Any = gate, act: Any = old.se.act1, **_: Any
            ) -> nn.Module:
                return SqueezeExcite(c, rd_channels=n, gate_layer=g, force_act_layer=type(act))

        c_in = old.conv_pw.in_channels
        new = InvertedResidual(
            c_in, old.conv_pwl.out_channels, kernel, old.conv_dw.stride[0], pad_type=pad, exp_ratio=hidden / c_in,
            act_layer=type(old.bn1.act), se_layer=se,
        )  # fmt: skip
        for norm in ("bn1", "bn2", "bn3"):
            getattr(new, norm).eps, getattr(new, norm).act = getattr(old, norm).eps, getattr(old, norm).act
        assert new.conv_pw.out_channels == hidden
        state, lost = {}, (old.conv_dw.kernel_size[0] - kernel) // 2
        for name, value in old.state_dict().items():
            if name.startswith(("conv_pw.", "bn1", "bn2", "conv_dw", "se.conv_expand")) and value.dim():
                value = value[kept]
            if name.startswith(("conv_pwl", "se.conv_reduce.weight")):
                value = value[:, kept]
            if name.startswith("se.conv_reduce"):
                value = value[inner]
            if name == "se.conv_expand.weight":
                value = value[:, inner]
            if name == "conv_dw.weight" and lost:
                value = value[..., lost:-lost, lost:-lost]
            state[name] = value
        new.load_state_dict(state)
        network.blocks[stage][i] = new.train(old.training)
    return network


@pytest.mark.parametrize("model", ["mobilenetv3_small_050", "tf_efficientnet_lite0", "tinynet_e"])
def test_slices_are_timms_blocks_with_copied_weights(model: str) -> None:
    space = nshot.space("timm", model=model, resolution=40, num_classes=5)
    pad = "same" if model.startswith("tf_") else ""
    x = torch.randn(3, 3, 40, 40)
    for seed in range(4):
        network, supernet = loaded(space, seed)
        for _, block in supernet.net.named_blocks():
            block.order_by_importance()
        subnet = space.sample(np.random.default_rng(seed))
        expected = shrunk(network, supernet, subnet, pad).eval()
        side = space.side(subnet)
        scaled = F.interpolate(x, size=(side, side), mode="bilinear")
        with torch.no_grad():
            torch.testing.assert_close(supernet.eval()(x, subnet), expected(scaled), rtol=1e-4, atol=1e-5)
        assert sum(p.numel() for p in expected.parameters()) == space.params(subnet)


def test_shares_are_multiples_of_8_and_each_once() -> None:
    space = nshot.space("timm")
    for at in space.places:
        counts = list(at.hidden.values())
        if at.block.hidden:
            assert counts == sorted(set(counts))
            assert counts[-1] == at.block.hidden
            assert all(count % 8 == 0 and count >= 8 for count in counts)
    assert dict(space.places[2].hidden) == {"1/3": 48, "1/2": 72, "2/3": 96, "1": 144}


def test_squeeze_layers_follow_timms_rule() -> None:
    """EfficientNet's are a quarter of a block's input; MobileNetV3's of the expanded channels, in multiples of 8."""
    assert squeeze_rule(original("efficientnet_b0").net) is None
    rule = squeeze_rule(original("mobilenetv3_large_100").net)
    assert rule is not None
    assert [rule(h) for h in (24, 40, 64, 72, 120, 240, 480, 672, 960)] == [8, 16, 16, 24, 32, 64, 120, 168, 240]


def test_only_the_regions_that_run_are_live(space: Timm) -> None:
    """Against where a subnet's weights come from, told by numbering all weights of the supernet."""
    supernet, rng = space.supernet().double(), np.random.default_rng(3)
    numbers, total = {}, 0
    for name, p in supernet.named_parameters():
        numbers[name] = torch.arange(total, total + p.numel(), dtype=torch.float64).view(p.shape)
        p.data.copy_(numbers[name])
        total += p.numel()
    for subnet in [space.sample(rng) for _ in range(5)]:
        used = torch.cat([p.detach().flatten() for p in nshot.extract(supernet, subnet).parameters()])
        live = supernet.live(subnet)
        fresh = space.supernet()
        optimizer = sgd(fresh.parameters(), idle="rest", clip=None, fast=False, lr=1.0, momentum=0.9, weight_decay=0.0)
        resting = RestingSlices(optimizer, fresh)
        own = {name: p.detach().clone() for name, p in fresh.named_parameters()}
        names = {f"net.{name}" for name, _ in nshot.extract(supernet, subnet).net.named_parameters()}
        for name, p in fresh.named_parameters():
            p.grad = torch.ones_like(p) if name in names else None
        resting.used([subnet])
        optimizer.step()
        moved = [numbers[name][(p.detach() != own[name])] for name, p in fresh.named_parameters()]
        assert torch.equal(torch.cat(moved).sort().values, used.sort().values)
        assert set(live) <= {name for name, _ in supernet.named_parameters()}


@needs_kernels
@pytest.mark.parametrize(("kernel", "stride", "side"), [(5, 2, 12), (5, 2, 13), (5, 1, 9), (7, 2, 10), (3, 2, 8)])
def test_the_kernel_with_uneven_padding_has_torchs_gradients(kernel: int, stride: int, side: int) -> None:
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    pads = total // 2, total - total // 2
    x, w = torch.randn(2, 6, side, side), torch.randn(6, 1, kernel, kernel)
    one, other = ([t.clone().requires_grad_() for t in (x, w)] for _ in range(2))
    ours = fast_depthwise(one[0], one[1], kernel, stride, pads)
    if kernel == 3:
        assert ours is None
        return
    assert ours is not None
    theirs = F.conv2d(F.pad(other[0], [*pads, *pads]), other[1], None, stride, groups=6)
    assert torch.equal(ours, theirs) or torch.allclose(ours, theirs, atol=1e-5)
    g = torch.randn_like(theirs)
    for out in (ours, theirs):
        out.backward(g)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


# what is refused


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"model": "efficientnet_lite"}, "timm has none of this name .similar: .*efficientnet_lite0"),
        ({"model": "resnet18"}, "'resnet18' is no network of inverted residuals"),
        ({"model": "mixnet_s"}, "it has a MixedConv2d"),
        ({"model": "efficientnetv2_s"}, "it has a block EdgeResidual"),
        (
            {"sides": (48, 96), "resolution": 128},
            "sides .48, 96.: must be rising numbers from 64 to the resolution 128",
        ),
        ({"sides": (48, 128), "resolution": 128}, "sides"),
        ({"sides": (128, 128), "resolution": 128}, "sides"),
        ({"resolution": 7}, "resolution 7: must be at least 8"),
        ({"num_classes": 1}, "num_classes 1"),
    ],
)
def test_impossible_sizes(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nshot.space("timm", **sizes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("32px|1", "expected the side and blocks"),
        ("32px|1|1,1k5", "expected"),
        ("31px|1|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1k5|1", "unknown option '31'"),
        ("32px|1|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1/4k5|1", "unknown option '1/4'"),
        ("32px|1|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1k7|1", "unknown option '7x7'"),
        ("32px|1|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1|1", "unknown option 'x'"),
        ("32px|1/2|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1k5|1", "unknown option '1/2'"),
        ("32px|1|skip,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1k5|1", "unknown option 'skip'"),
    ],
)
def test_bad_notation(space: Timm, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space.parse(text)


def test_notation(space: Timm) -> None:
    assert space.format(largest(space)) == "32px|1|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1k5|1"
    skipped = space.parse("32px|1|1,skip|1k5,skip,1k5|1k5,1k5|1k5,1k5,1k5|1")  # a kernel need not be said
    assert space.format(skipped) == "32px|1|1,skip|1k5,skipk3,1k5|1k5,1k5|1k5,1k5,1k5|1"
    one = nshot.space("timm", **{**SMALL["timm"], "sides": (32,)})
    assert one.parse(one.format(largest(one))) == largest(one)
    with pytest.raises(UserError, match="the only side is 32px"):
        one.parse("24px|1|1,1|1k5,1k5,1k5|1k5,1k5|1k5,1k5,1k5|1")


def test_a_block_that_does_not_run_has_one_kernel(space: Timm) -> None:
    names = [d.name for d in space.decisions]
    share, kernel = names.index("block2.1.share"), names.index("block2.1.kernel")
    first = list(largest(space))
    first[share] = 0
    assert space.decisions[share].options[0] == "skip"
    other = list(first)
    other[kernel] = 0
    assert space.canonical(tuple(first)) == tuple(other) == space.canonical(tuple(other))
    assert space.format(tuple(first)) != space.format(tuple(other))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original.cache_clear()
    found = builtins.__import__

    def without(name: str, *args: Any, **known: Any) -> Any:
        if name == "timm" or name.startswith("timm."):
            raise ImportError(name)
        return found(name, *args, **known)

    monkeypatch.setattr("nshot.errors.import_module", without)
    with pytest.raises(UserError, match=r"space timm, model 'tinynet_e', needs timm: pip install 'nshot\[timm\]'"):
        nshot.space("timm", model="tinynet_e")
    assert "pip install" in refuse("train", "spos", "--space", "timm", "--out", "never")


def test_help_does_not_import_timm() -> None:
    code = (
        "import sys, nshot, nshot.cli as c; nshot.list_spaces(); c.main(['--help']); assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_from_the_command_line(tmp_path: Any) -> None:
    out = tmp_path / "run"
    args = ["--preset", "smoke", "--space", "timm", "--resolution", "16", "--device", "cpu", "--out", out]
    assert nshot_("train", "spos", *args)[0] == 0
    status, _, err = nshot_("search", out, "--method", "random", "--sample", "4", "--images", "50", "--device", "cpu")
    assert status == 0, err


def test_sides_are_a_half_three_quarters_and_all() -> None:
    for resolution, sides in {224: (112, 168, 224), 96: (48, 72, 96), 97: (49, 72, 97), 8: (4, 8), 12: (8, 12)}.items():
        assert nshot.space("timm", resolution=resolution).all_sides == sides


def test_statistics_of_a_subnet_are_those_of_its_own_network(space: Timm) -> None:
    """Calibrated alone; what it does not run has those of a new norm."""
    _, supernet = loaded(space)
    for _, block in supernet.net.named_blocks():
        block.order_by_importance()
    batches = [torch.randn(8, 3, 32, 32) for _ in range(3)]
    for seed in range(3):
        subnet = space.sample(np.random.default_rng(seed))
        network = nshot.extract(supernet, subnet)
        calibrate(supernet, batches, subnet)
        calibrate(network, batches)
        x = torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(supernet.eval()(x, subnet), network.eval()(x), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(network(x), supernet(x, space.sample(np.random.default_rng(seed + 9))), atol=1e-2)
        choice = next((n, c) for n, c in zip(space.places, space.choices(subnet), strict=True) if c.hidden)
        norm = supernet.net.get_submodule(f"blocks.{choice[0].name}.bn1")
        assert int((norm.running_mean == 0).sum()) == choice[0].block.hidden - choice[1].hidden
