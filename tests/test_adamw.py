"""What AdamW decays: against torch's with two groups made by hand, and timm's own split; runs of earlier versions."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import nshot
from helpers import SMALL, nshot_, refuse
from nshot import SeparatedMomentum, UserError
from nshot.data.sources import Dataset
from nshot.files import read_json
from nshot.networks.recipes import Recipe
from nshot.networks.recipes import completed as recipe_completed
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.nn.auxiliary import WithAuxiliary
from nshot.runs import checkpoint
from nshot.spaces import Space
from nshot.strategies import Plan, strategies
from nshot.strategies.memory import Batch, Facts
from nshot.supernets.config import TrainConfig, completed, from_dict, preset, resumable, to_dict
from nshot.supernets.train import make_batches, make_optimizer, make_strategy, new_supernet, train
from nshot.training.optimizers import adamw, undecayed
from nshot.training.tools import RunTools

LR, DECAY = 0.05, 0.1
APART = ("norm", "bias", "token", "position")  # words in the names of AutoFormer's weights that are not decayed


@pytest.fixture(scope="module")
def space() -> Space:
    return nshot.space("autoformer", **SMALL["autoformer"])


def config_of(space: Space, **options: Any) -> TrainConfig:
    base = preset("smoke", "spos", "autoformer")
    return dataclasses.replace(base, space=space, epochs=1, weight_decay=DECAY, **options)


def by_hand(module: nn.Module, decayed: str) -> torch.optim.AdamW:
    if decayed == "all":
        return torch.optim.AdamW(module.parameters(), lr=LR, weight_decay=DECAY)
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, weight in module.named_parameters():
        groups[any(word in name for word in APART)].append(weight)
    none = {"params": groups[True], "weight_decay": 0.0}
    return torch.optim.AdamW([none, {"params": groups[False]}], lr=LR, weight_decay=DECAY)


def names(module: nn.Module, weights: Any) -> set[str]:
    chosen = {id(weight) for weight in weights}
    return {name for name, weight in module.named_parameters() if id(weight) in chosen}


@pytest.mark.parametrize("decayed", ["matrices", "all"])
@pytest.mark.parametrize("idle", ["drift", "rest"])
@pytest.mark.parametrize("kind", ["supernet", "network"])
def test_steps_are_those_of_torchs_with_two_groups(kind: str, idle: Any, decayed: Any, space: Space) -> None:
    subnet = next(space.subnets())
    torch.manual_seed(0)
    module: nn.Module = space.supernet() if kind == "supernet" else space.network(subnet)
    twin: nn.Module = space.supernet() if kind == "supernet" else space.network(subnet)
    twin.load_state_dict(module.state_dict())
    ours = adamw(module, idle=idle, clip=0.5, lr=LR, weight_decay=DECAY, decayed=decayed)
    theirs = by_hand(twin, decayed)
    for step in range(4):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        given = (x, subnet) if kind == "supernet" else (x,)
        for each, optimizer in ((module, ours), (twin, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(each(*given), torch.tensor([0, 1, 2, 3])).backward()
        for weight in twin.parameters():
            if idle == "drift" and weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)  # of all weights together, whatever their group
        ours.step()
        theirs.step()
    for name, weight in module.named_parameters():
        assert weight.equal(twin.get_parameter(name)), name


def test_an_idle_norm_drifts_without_decay(space: Space) -> None:
    supernet = space.supernet()
    optimizer, _ = make_optimizer(config_of(space, idle="drift"), supernet, 1)
    deepest = supernet.get_parameter("layers.2.norm1.weight")  # beyond the depth of the first subnet
    matrix = supernet.get_parameter("layers.2.expand.weight")
    before = matrix.detach().clone()
    F.cross_entropy(supernet(torch.randn(2, 3, 8, 8), next(space.subnets())), torch.tensor([0, 1])).backward()
    optimizer.step(cluster=0)
    assert deepest.eq(1).all()
    lr = optimizer.param_groups[0]["lr"]
    torch.testing.assert_close(matrix.detach(), before * (1 - lr * DECAY))


@pytest.mark.parametrize("kind", ["supernet", "network", "extracted"])
def test_what_is_not_decayed_is_what_timm_would_not_decay(kind: str, space: Space) -> None:
    timm = pytest.importorskip("timm.optim", reason="the extra timm is not installed")
    supernet = space.supernet()
    subnet = next(space.subnets())
    module: Any = {
        "supernet": supernet,
        "network": space.network(subnet),
        "extracted": nshot.extract(supernet, subnet),
    }[kind]
    groups = timm.param_groups_weight_decay(module, DECAY, no_weight_decay_list=module.no_weight_decay())
    (theirs,) = (group["params"] for group in groups if group["weight_decay"] == 0)
    assert names(module, undecayed(module)) == names(module, theirs)
    assert {"token", "position", "norm.bias", "layers.0.attention.key_position.vertical"} <= names(module, theirs)


@pytest.mark.parametrize("name", nshot.list_spaces())
def test_every_space_decays_its_matrices_and_nothing_of_one_dimension(name: str) -> None:
    space = nshot.space(name, **SMALL[name])
    rng = np.random.default_rng(0)
    for module in (space.supernet(), space.network(space.sample(rng))):
        exempt = undecayed(module)
        for key, weight in module.named_parameters():
            apart = weight.dim() < 2 or any(word in key for word in APART)
            assert (weight in exempt) == apart, key


def test_modules_inside_name_theirs() -> None:
    """A wrapper, as an auxiliary head's or one of a user's own, does not hide what the network in it says."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.ones(1, 2, 3))
            self.tied = self.query
            self.matrix = nn.Linear(3, 3)

        def no_weight_decay(self) -> set[str]:
            return {"tied", "not there"}

    inside = Own()
    for module in (inside, nn.Sequential(nn.Identity(), inside)):
        assert {id(weight) for weight in undecayed(module)} == {id(inside.query), id(inside.matrix.bias)}
    darts = nshot.space("darts", **SMALL["darts"])
    network = darts.network(next(darts.subnets()))
    wrapped = darts.with_auxiliary(network)
    assert isinstance(wrapped, WithAuxiliary)
    assert undecayed(network) <= undecayed(wrapped)


def test_the_groups_of_a_cluster_survive_a_round_trip(space: Space) -> None:
    """Two groups under separated moments: loaded into another optimizer, both go on bit for bit."""
    config = config_of(space)
    torch.manual_seed(0)
    supernet = space.supernet()
    rng = np.random.default_rng(0)
    paths = [space.sample(rng) for _ in range(8)]

    def steps(module: nn.Module, optimizer: SeparatedMomentum, which: range) -> None:
        for step in which:
            x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            F.cross_entropy(module(x, paths[step]), torch.tensor([0, 1, 2, 3])).backward()
            for group in optimizer.param_groups:
                group["lr"] = LR / (step + 1)
            optimizer.step(cluster=paths[step][0])
            optimizer.zero_grad()

    optimizer = make_optimizer(config, supernet, 3)[0]
    steps(supernet, optimizer, range(4))
    twin = space.supernet()
    twin.load_state_dict(supernet.state_dict())
    other = make_optimizer(config, twin, 3)[0]
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares tensors of the same kind
    assert [group["weight_decay"] for group in other.param_groups] == [DECAY, 0.0]
    steps(supernet, optimizer, range(4, 8))
    steps(twin, other, range(4, 8))
    for name, weight in supernet.named_parameters():
        assert weight.equal(twin.get_parameter(name)), name


# runs of earlier versions, which decayed all and did not write so


def forget(folder: Path, *keys: str) -> None:
    path = folder / "config.json"
    stored = read_json(path)
    values = stored["config"].get("recipe", stored["config"])
    for key in keys:
        del values[key]
    path.write_text(json.dumps(stored))


def unfinished(run: Path, result: str) -> None:
    """As if it had been killed after its older checkpoint."""
    (run / result).unlink()
    newest, _ = checkpoint.checkpoints(run)
    newest.unlink()


def test_a_supernet_of_an_earlier_version_goes_on_as_it_was(space: Space, digits: Dataset, tmp_path: Path) -> None:
    config = config_of(space, decayed="all", checkpoint_every=3)
    whole = train(config, digits, tmp_path / "whole", device="cpu", say=lambda line: None)
    old = shutil.copytree(whole, tmp_path / "old")
    forget(old, "decayed")
    unfinished(old, "supernet.safetensors")
    with pytest.raises(UserError, match="decayed: all, not matrices"):
        train(dataclasses.replace(config, decayed="matrices"), digits, old, device="cpu")
    train(config, digits, old, device="cpu", say=lambda line: None)
    weights, others = (load_file(run / "supernet.safetensors") for run in (whole, old))
    assert all(weights[key].equal(others[key]) for key in weights)


def test_a_supernet_by_sgd_of_an_earlier_version_goes_on(digits: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(preset("smoke"), epochs=1)
    run = train(config, digits, tmp_path / "run", device="cpu", say=lambda line: None)
    forget(run, "decayed")
    said: list[str] = []
    train(config, digits, run, device="cpu", say=said.append)
    assert said == [f"{run} is finished already: nothing to do"]


def test_a_retraining_of_an_earlier_version_goes_on_as_it_was(space: Space, digits: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=64, optimizer="adamw", lr=1e-3, weight_decay=DECAY, decayed="all")
    config = RetrainConfig(space, recipe, "digits", checkpoint_every=5)
    subnet = next(space.subnets())
    whole = retrain(config, subnet, digits, tmp_path / "whole", device="cpu", say=lambda line: None)
    old = shutil.copytree(tmp_path / "whole", tmp_path / "old")
    forget(old, "decayed")
    unfinished(old, "result.json")
    (old / "network.safetensors").unlink()
    other = dataclasses.replace(config, recipe=dataclasses.replace(recipe, decayed="matrices"))
    with pytest.raises(UserError, match=r"recipe\.decayed: all, not matrices"):
        retrain(other, subnet, digits, old, device="cpu")
    assert retrain(config, subnet, digits, old, device="cpu", say=lambda line: None) == whole
    weights, others = (load_file(tmp_path / name / "network.safetensors") for name in ("whole", "old"))
    assert all(weights[key].equal(others[key]) for key in weights)


def test_a_nesterov_that_did_nothing_is_forgotten() -> None:
    adam = dataclasses.replace(preset("smoke", "spos", "autoformer"), decayed="all")
    stored = {**to_dict(adam), "nesterov": False}
    del stored["decayed"]
    assert from_dict(stored) == adam.resolved()
    assert completed(stored) == to_dict(adam)
    recipe = Recipe(optimizer="adamw", decayed="all")
    values = {**dataclasses.asdict(recipe), "nesterov": False}
    del values["decayed"]
    config = {"space": {"name": "nasbench201"}, "recipe": values}
    assert recipe_completed(config)["recipe"] == dataclasses.asdict(recipe)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--decayed", "all"], "decayed all has no effect with --optimizer sgd, which decays all weights"),
        (["--optimizer", "adamw", "--no-nesterov"], "nesterov False has no effect with --optimizer adamw: leave it"),
        (["--optimizer", "adamw", "--decayed", "norms"], "norms"),
    ],
)
def test_an_option_without_effect_is_refused(flags: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refuse("train", "spos", "--preset", "smoke", "--out", tmp_path / "out", *flags)
    assert expected in refuse("retrain", "none", "--dataset", "digits", "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_help_says_what_is_decayed() -> None:
    for command in (["train"], ["retrain"]):
        assert "--decayed {matrices,all}" in nshot_(*command, "--help")[1]


@pytest.mark.parametrize("strategy", ["fairnas", "sandwich", "nsas"])
def test_a_schedule_of_several_paths_is_the_rate_though_the_scale_of_gradients_means_nothing(
    strategy: str, digits: Dataset, tmp_path: Path
) -> None:
    """Paths whose rates fall alike, as 1 - t/T: against torch's AdamW of the paths' gradients, whose rate falls so.

    By weights of gradients alone, as SGD takes them, AdamW would go on as fast as it began.
    """
    space = nshot.space("nasbench201", channels=2, cells=1, resolution=8)
    options = strategies[strategy].options_type.of(schedule="power", power=1.0, per_epoch=False)
    config = TrainConfig(strategy, space, options, "digits", epochs=6, batch_size=256, optimizer="adamw", lr=0.01,
                         weight_decay=DECAY, clip=1e6, idle="rest", fast="off", log_every=1)  # fmt: skip
    made = make_batches(config, digits)
    total = config.epochs * made.steps_per_epoch
    plain = make_strategy(dataclasses.replace(config, options=type(options)(schedule="constant")), made.steps_per_epoch)
    net = new_supernet(config)
    memory = plain.memory(net, Facts(len(digits.train), 10, 256, config.lr))
    optimizer = by_hand(net, "matrices")
    tools = RunTools(plain, net, SeparatedMomentum(optimizer, 1), net, F.cross_entropy)  # type: ignore[arg-type]
    rates = []
    for step in range(total):
        images, labels = made(step)
        batch = Batch(images, labels)
        plain.before(step, batch, memory, tools)
        plan = plain.plan(step, memory)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / total)
        rates.append(config.lr * (1 - step / total) * sum(plan.weights) / len(plan.weights))
        for k, weight in enumerate(plan.weights):
            (plain.objective(step, plan, k, batch, memory, tools)[0] * weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    run = train(config, digits, tmp_path / "run", device="cpu", say=lambda line: None)
    for name, value in load_file(run / "supernet.safetensors").items():
        torch.testing.assert_close(
            value, net.state_dict()[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if "lr" in line] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("strategy", "name", "changed", "goes_on"),
    [
        ("fairnas", "autoformer", {"options": {"schedule": "calr"}}, False),
        ("fairnas", "autoformer", {"options": {"schedule": "cosine"}}, True),
        ("spos", "autoformer", {"options": {"schedule": "calr"}}, True),
        ("fairnas", "nasbench201", {"options": {"schedule": "calr"}}, True),
        ("sandwich", "timm", {"options": {"schedule": "cosine"}}, False),
        ("sandwich", "timm", {"options": {"schedule": "cosine"}, "idle": "drift"}, True),
        ("spos", "timm", {"options": {"schedule": "cosine"}}, True),
        ("spos", "nasbench201", {"precision": "bf16-mixed"}, False),
    ],
)
def test_which_trainings_of_an_earlier_version_go_on(
    strategy: str, name: str, changed: dict[str, Any], goes_on: bool
) -> None:
    """Not those whose remaining steps would be of other rules; all can be read, to be ranked and searched."""
    base = preset("smoke", strategy, name)
    options = dataclasses.replace(base.options, **changed.pop("options", {}))
    config = dataclasses.replace(base, options=options, **changed)
    now = json.loads(json.dumps(to_dict(config)))
    assert resumable(now) == to_dict(config)
    del now["rules"]
    assert to_dict(from_dict(now)) == to_dict(config)
    if goes_on:
        assert resumable(now) == to_dict(config)
    else:
        with pytest.raises(
            UserError, match="an earlier version of nshot began this training, by rules that are no more"
        ):
            resumable(now)


@pytest.mark.parametrize("more", [{"schedule": "constant", "per_epoch": True}, {"variant": "released", "archive": 3}])
def test_options_that_had_no_effect_are_forgotten(more: dict[str, Any]) -> None:
    """Runs of earlier versions may have them."""
    strategy = "nsas" if "archive" in more else "spos"
    stored = json.loads(json.dumps(to_dict(preset("smoke", strategy))))
    stored["options"] |= more
    kept = {key: value for key, value in more.items() if key not in ("per_epoch", "archive")}
    assert from_dict(stored).options == strategies[strategy].options_type.of(**kept)


def test_what_paths_have_in_common_is_the_steps_rate() -> None:
    plan = Plan(((0,), (1,)), (0.9, 0.1), 0.5, 0)
    weighed = plan.weighed([0.2, 0.6])
    assert weighed.weights == pytest.approx((0.18, 0.06))
    spread = weighed.spread()
    assert spread.lr == pytest.approx(0.5 * 0.24)  # each path counts by its share of the loss: 0.9 0.2 + 0.1 0.6
    assert spread.weights == pytest.approx((0.75, 0.25))
    assert sum(spread.weights) == pytest.approx(sum(plan.weights))
    assert spread.rates == pytest.approx(weighed.rates)
    assert plan.spread() == plan
    assert plan.weighed([0.0, 0.0]).spread().weights == (0, 0)
