"""AutoFormer's largest subnet as timm's DeiT-tiny, from (random) weights of its shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

import nshot
from nshot import UserError
from nshot.search.begin import begin_with
from nshot.spaces import Supernet

TINY: dict[str, Any] = {"widths": (144, 168, 192), "depths": (10, 11, 12), "heads": (2, 3), "ratios": (3.0, 4.0)}
AS_DEIT: dict[str, Any] = {"deit": True, "relative": False}


def largest(space: nshot.spaces.Space) -> tuple[int, ...]:
    return tuple(d.allowed[-1] for d in space.decisions)


@pytest.fixture(scope="module")
def deit() -> nn.Module:
    """DeiT-tiny with random weights, norms and biases too."""
    torch.manual_seed(0)
    network = timm.create_model("deit_tiny_patch16_224")
    for p in network.parameters():
        p.data.normal_(1.0 if p.dim() == 1 else 0.0, 0.05)
    return network.eval()


@pytest.fixture(scope="module")
def file(deit: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deit") / "deit.pth"
    torch.save({"model": deit.state_dict()}, path)
    return path


def begun(file: Path, **sizes: Any) -> Supernet:
    space = nshot.space("autoformer", **{**TINY, **AS_DEIT, "num_classes": 1000, "resolution": 224, **sizes})
    supernet = space.supernet()
    supernet.load_state_dict(space.pretrained(str(file)), strict=False)
    return supernet.eval()


def test_the_largest_subnet_is_deit_tiny(deit: nn.Module, file: Path) -> None:
    supernet = begun(file)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, largest(supernet.space)), deit(x), rtol=1e-4, atol=1e-4)
        smaller = supernet.space.sample(np.random.default_rng(0))
        assert not torch.allclose(supernet(x, smaller), deit(x), atol=1e-2)
    assert supernet.space.params(largest(supernet.space)) == sum(p.numel() for p in deit.parameters())


def test_weights_by_other_names_in_timms_order(deit: nn.Module, tmp_path: Path) -> None:
    torch.save({f"w{i}": v for i, v in enumerate(deit.state_dict().values())}, tmp_path / "w.pth")
    supernet, x = begun(tmp_path / "w.pth"), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, largest(supernet.space)), deit(x), rtol=1e-4, atol=1e-4)


def test_other_classes_have_a_new_head_and_other_sides_timms_positions(deit: nn.Module, file: Path) -> None:
    supernet = begun(file, num_classes=5, resolution=96)
    expected = resample_abs_pos_embed(deit.pos_embed.data, [6, 6])
    torch.testing.assert_close(supernet.position.data, expected, rtol=1e-4, atol=1e-5)
    assert supernet.classifier.weight.shape == (5, 192)
    assert not torch.equal(supernet.classifier.weight, deit.head.weight[:5])


def test_fine_tuning_begins_with_slices(file: Path) -> None:
    space = nshot.space("autoformer", **TINY, **AS_DEIT, num_classes=5)
    begin = begin_with(file, space)
    assert begin is not None
    subnet = space.sample(np.random.default_rng(1))
    given = begin(subnet)
    network = space.network(subnet)
    missing, unexpected = network.load_state_dict(given, strict=False)
    assert not unexpected
    assert set(missing) == {"classifier.weight", "classifier.bias"}


def test_a_part_of_the_space_has_the_leading_slices(file: Path) -> None:
    whole = begun(file, num_classes=1000)
    part = whole.space.restrict("width", "144").restrict("depth", "10").restrict("layer3.heads", "2")
    supernet = part.supernet()
    supernet.load_state_dict(part.pretrained(str(file)), strict=False)
    x, subnet = torch.randn(1, 3, 224, 224), part.sample(np.random.default_rng(0))
    with torch.no_grad():
        torch.testing.assert_close(supernet.eval()(x, subnet), whole(x, subnet), rtol=1e-4, atol=1e-4)


def test_images_are_normalised_as_imagenets() -> None:
    cfg = timm.create_model("deit_tiny_patch16_224").pretrained_cfg
    space = nshot.space("autoformer", **TINY, **AS_DEIT)
    assert space.normalised is not None
    for ours, theirs in zip(space.normalised, (cfg["mean"], cfg["std"]), strict=True):
        np.testing.assert_allclose(ours, [255 * v for v in theirs])
    assert nshot.space("autoformer").normalised is None


def test_what_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="say --no-relative too"):
        nshot.space("autoformer", deit=True)
    with pytest.raises(UserError, match="add --deit --no-relative"):
        nshot.space("autoformer").pretrained(str(file))
    with pytest.raises(UserError, match=r"of shape .* name weights of the same model"):
        begun(file, widths=(144, 168))
    with pytest.raises(UserError, match="name weights of the same model"):
        begun(file, depths=(11, 13))
