"""The command that retrains or fine-tunes a subnet."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nshot.commands import judged
from nshot.flags import Columns, Download, Where, Workers, parse, positional, take, take_space
from nshot.runs.where import On


def retrain(args: list[str]) -> None:
    """retrain or fine-tune a subnet and test it: nshot retrain SUBNET|search.json|RUN --out FOLDER [options]"""
    from nshot.data.manifest import check_manifest
    from nshot.data.sources import load
    from nshot.networks.choice import choice_file, read_choice
    from nshot.networks.recipes import RECIPES, TUNE, fitting, recipe, recipe_name
    from nshot.networks.retrain import RetrainConfig, retrain_best
    from nshot.runs.folder import read_config
    from nshot.search.begin import begin_with, begun_with, subnets_of

    choice = choice_file(positional(args, "retrain", "SUBNET: its notation, released:N, largest, or a search.json"))
    default, archs = read_choice(choice)
    init = take([*args], "--init")
    space_name = take([*args], "--space")
    default = begun_with(init, take_space(args, default), choice, space_name)
    default = replace(default, space=default.space.retrained, init=None if init is None else Path(init))
    named = take(args, "--recipe")
    own = TUNE if init else recipe_name(default.space, take([*args], "--dataset") or default.dataset)
    name = named or own
    asked = take([*args], "--resolution") or ""  # which the flags below have too, as all sizes of the space
    side = int(asked) if asked.isdecimal() else default.space.resolution
    default = replace(default, recipe=recipe(name) if named else fitting(recipe(name), side))

    @dataclass(frozen=True)
    class Retrain(Where, Download, Workers, Columns):
        out: Path
        """Run folder; an unfinished retraining of the same options there is continued."""
        config: RetrainConfig = field(default_factory=lambda: default)
        at: On = field(default_factory=On)
        """Where several subnets are retrained."""

    what = (
        "Retrain a subnet on all training images, from scratch or (--init) from given weights, and test it. SUBNET: "
        "its notation, released:N, the word largest, or a search.json, or the run folder with one. The defaults are "
        f"those of the recipe {name}, which belongs to the space, or to given weights, unless another is named; "
        f"options override it. Recipes (--recipe): {', '.join(RECIPES)}."
    )
    command = parse(Retrain, args, "retrain SUBNET", what)
    config = replace(command.config, dataset=command.named(command.config.dataset))
    subnets = subnets_of(config.space, archs)
    size = config.space.resolution
    data = load(config.dataset, root=command.data_root, download=command.download, resolution=size)
    run = Path(choice).parent  # of a search.json: the images must be those that it was searched with
    if choice.endswith(".json") and config.dataset == default.dataset and (run / "config.json").exists():
        listed = read_config(run)["config"].get("split", "half") != "half"
        check_manifest(run, data, halves=False, some=listed)
    config = replace(config, space=config.space.with_classes(data.classes))
    begin = begin_with(config.init, config.space)
    how: dict[str, Any] = {"device": command.device, "workers": command.workers, "on": command.at}
    result = retrain_best(config, subnets, data, command.out, begin=begin, **how)
    tried = len(result.get("test_accuracies", ()))
    best = f" (the best of {tried} by it, so too good)" if tried else ""
    print(f"{result['arch']}: {result['params']:,} parameters, test accuracy {result['test_accuracy']:.2f} %{best}")
    print(f"written: {command.out / result.get('folder', '') / 'network.safetensors'} and result.json")
    judged(command.out, data, command.device)
