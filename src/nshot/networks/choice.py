"""Which subnets are retrained, and how: by a search, or as they are named."""

import os
from pathlib import Path

from nshot.errors import UserError
from nshot.files import read_json, typed
from nshot.runs.naming import search_in
from nshot.spaces import space_from_dict

from .retrain import RetrainConfig


def choice_file(choice: str) -> str:
    """Of a run folder the JSON file of its search; any other text itself.

    Raises:
        UserError: for a folder without a search, or with several none of which has the default name.
    """
    if not os.path.isdir(choice):
        return choice
    found = search_in(Path(choice))
    if found is None:
        raise UserError(f"{choice} has no search.json: make one with nshot search {typed(choice)}")
    return str(found)


def read_choice(choice: str) -> tuple[RetrainConfig, list[str]]:
    """The configuration and the subnets that a search.json names; any other text is itself the subnet.

    A search of several supernets names the best subnet of each.

    Raises:
        UserError: for a JSON file that holds no search result.
    """
    if not choice.endswith(".json"):
        return RetrainConfig(), [choice]
    try:
        found = read_json(Path(choice))
        space = space_from_dict(found["space"])
        archs = [row["arch"] for row in found.get("parts") or [found["best"]]]
        if not all(isinstance(text, str) for text in (*archs, found["dataset"])):
            raise TypeError("a name is no text")
        return RetrainConfig(space=space, dataset=found["dataset"]), archs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{choice} is no search result ({error}): make one with nshot search RUN") from None
