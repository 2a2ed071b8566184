"""Search: quantities, limits that every proposed subnet keeps to, lists of subnets, and the best of them."""

import dataclasses
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from nshot import UserError, space
from nshot.data.batches import Normalise, heldout_batches
from nshot.data.mixture import mixture
from nshot.data.sources import load
from nshot.fields import quantity
from nshot.files import read_json
from nshot.networks.choice import read_choice
from nshot.ranking.evaluate import evaluate
from nshot.search.limits import Limits
from nshot.search.pick import How, search_run
from nshot.search.propose import all_subnets, random_subnets, within
from nshot.spaces.lists import subnets_from_file
from nshot.supernets.config import preset
from nshot.supernets.load import load_run
from nshot.supernets.train import train

SPACE = space("nasbench201", channels=4, cells=1, resolution=8)
ALL = list(SPACE.subnets())
PARAMS = np.array([SPACE.network_params(subnet) for subnet in ALL])
FLOPS = np.array([SPACE.flops(subnet) for subnet in ALL])
LEAN = np.array([SPACE.canonical(subnet) == subnet for subnet in ALL])


def counted(subnet) -> int:
    return sum(weight.numel() for weight in SPACE.network(subnet).parameters())


# quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.2M", 1_200_000),
        ("60M", 60_000_000),
        ("1200000", 1_200_000),
        ("1,000", 1000),
        ("2k", 2000),
        ("2.5K", 2500),
        ("1G", 10**9),
        ("3B", 3 * 10**9),
        (" 8 m ", 8_000_000),
        ("1e6", 1_000_000),
    ],
)
def test_quantity(text, value):
    found = quantity(text)
    assert found == value
    assert isinstance(found, int)


@pytest.mark.parametrize(
    "text", ["", " ", "abc", "-3", "-1M", "0", "0M", "0.4", "nan", "inf", "1.2X", "M", "1M2", "1kk", "1,2M", "1,2,3"]
)
def test_no_quantity(text):
    with pytest.raises(UserError) as refusal:
        quantity(text)
    assert repr(text) in str(refusal.value)


@given(st.integers(1, 10**12))
def test_quantity_of_whole_numbers_is_exact(number):
    assert quantity(str(number)) == quantity(f"{number:,}") == number


def test_limits_of_texts():
    assert Limits.of("1.2M", None, "2k") == Limits(max_params=1_200_000, min_params=2000)
    assert Limits.of(None, "60M", None) == Limits(max_flops=60_000_000)
    with pytest.raises(UserError, match=r"'1\.2X'"):
        Limits.of(None, None, "1.2X")


# proposals


def allowed_by(limits: Limits) -> np.ndarray:
    """Brute force: which of all 15,625 subnets keep to the limits."""
    params, flops = PARAMS, FLOPS
    most, least = limits.max_params or math.inf, limits.min_params or 0
    return (params <= most) & (params >= least) & (flops <= (limits.max_flops or math.inf))


@st.composite
def satisfiable(draw) -> Limits:
    """Limits that at least one subnet in fifty keeps to, itself the leanest of its form."""
    limits = Limits(
        max_params=draw(st.none() | st.integers(int(PARAMS.min()), 30_000)),
        max_flops=draw(st.none() | st.integers(int(FLOPS.min()), 300_000)),
        min_params=draw(st.none() | st.integers(1, int(PARAMS.max()))),
    )
    assume((allowed_by(limits) & LEAN).mean() > 0.02)
    return limits


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(satisfiable(), st.integers(1, 40), st.integers(0, 2**32))
def test_random_subnets_keep_to_the_limits(limits, count, seed):
    """The leanest member of each form, and of these all that are within."""
    subnets = random_subnets(SPACE, count, limits, seed)
    allowed = {s for s, ok in zip(ALL, allowed_by(limits), strict=True) if ok and SPACE.canonical(s) == s}
    assert set(subnets) <= allowed
    assert len(set(subnets)) == len(subnets) == min(count, len(allowed))
    assert random_subnets(SPACE, count, limits, seed) == subnets
    for subnet in subnets[:2]:
        assert counted(subnet) <= (limits.max_params or math.inf)
        assert counted(subnet) >= (limits.min_params or 0)


def test_random_subnets_differ_by_seed_and_cover_the_space():
    """Forms come up by how many members they have: subnets are drawn uniformly."""
    first, second = (set(random_subnets(SPACE, 500, seed=seed)) for seed in (0, 1))
    members = Counter(map(SPACE.canonical, ALL))
    sizes = np.array(list(members.values()))

    def chances(share: float) -> np.ndarray:
        """That a form is among the first so many of all subnets."""
        return 1 - (1 - share) ** sizes

    share = brentq(lambda share: chances(share).sum() - 500, 0, 1)
    both = (chances(share) ** 2).sum()
    assert abs(len(first & second) - both) < 5 * math.sqrt(both)
    for low, high in ((1, 1), (2, 3), (4, 16), (17, 5000)):
        expected = chances(share)[(low <= sizes) & (sizes <= high)].sum()
        found = [sum(low <= members[subnet] <= high for subnet in drawn) for drawn in (first, second)]
        assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in found)


def test_random_subnets_are_all_that_a_small_space_has():
    small = SPACE.restrict("1<-0", "none", "nor_conv_3x3")
    for edge in ("2<-0", "2<-1", "3<-0"):
        small = small.restrict(edge, "skip_connect")
    subnets = random_subnets(small, 1000)
    every = [(a, 1, 1, 1, b, c) for a in (0, 3) for b in range(5) for c in range(5)]
    # Without edge 1<-0 node 1 is empty, so that edge 3<-1 says nothing; a convolution that nothing reads is left out.
    lean = [(a, *rest, b, c) for a, *rest, b, c in every if (a or not b) and not (a and b == c == 0)]
    assert sorted(subnets) == lean
    assert subnets != sorted(subnets)


@pytest.mark.parametrize("count", [1, 1000])
def test_limits_that_one_subnet_keeps_to_are_satisfied(count):
    """All 3x3 convolutions: the largest subnet, one of 15,625."""
    for seed in range(5):
        assert random_subnets(SPACE, count, Limits(min_params=int(PARAMS.max())), seed) == [(3,) * 6]


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_params=4_893),
        Limits(min_params=23_375),
        Limits(max_flops=35_743),
        Limits(max_params=8_000, min_params=9_000),
        Limits(max_flops=40_000, min_params=20_000),
    ],
    ids=str,
)
def test_unsatisfiable_limits_say_what_comes_nearest(limits):
    """The least sum of shares by which limits are broken."""
    assert not allowed_by(limits).any()

    def told(chosen: np.ndarray) -> str:
        params, flops = PARAMS[chosen], FLOPS[chosen]
        broken = np.maximum(params / (limits.max_params or math.inf) - 1, 0)
        broken += np.maximum(1 - params / (limits.min_params or 1), 0)
        broken += np.maximum(flops / (limits.max_flops or math.inf) - 1, 0)
        best = broken.argmin()
        wanted = [f"{params[best]:,} parameters"] if limits.max_params or limits.min_params else []
        wanted += [f"{flops[best]:,} FLOPs"] if limits.max_flops else []
        return (
            f"no subnet keeps to {limits}: space nasbench201 of these sizes comes nearest with {' and '.join(wanted)}"
        )

    for propose, chosen in (
        (lambda: random_subnets(SPACE, 3, limits), LEAN),
        (lambda: all_subnets(SPACE, SPACE.canonical, limits), LEAN),
        (lambda: within(SPACE, ALL[:100], limits), np.arange(len(ALL)) < 100),
    ):
        with pytest.raises(UserError) as refusal:
            propose()
        assert str(refusal.value) == told(chosen)


def test_within_keeps_order_and_repeats():
    small, large, other = (0,) * 6, (3,) * 6, (0, 0, 0, 2, 0, 0)
    assert within(SPACE, [other, large, small, other], Limits(max_params=8_000)) == [other, small, other]
    assert within(SPACE, [other, large], Limits()) == [other, large]
    at_the_bound = Limits(max_params=counted(large), min_params=counted(large))
    assert within(SPACE, [small, large], at_the_bound) == [large]


@pytest.mark.parametrize(
    ("limits", "computed"),
    [
        (Limits(), []),
        (Limits(max_params=5), ["params"]),
        (Limits(min_params=5), ["params"]),
        (Limits(max_flops=6), ["flops"]),
        (Limits(max_flops=6, min_params=5), ["params", "flops"]),
        (Limits(max_params=4, max_flops=6), ["params"]),
        (Limits(max_latency=7, latency=lambda subnet: 7), []),
    ],
    ids=str,
)
def test_only_limited_costs_are_computed(limits, computed):
    told = []

    class Priced:
        def network_params(self, subnet):
            told.append("params")
            return 5

        def flops(self, subnet):
            told.append("flops")
            return 6

    assert limits.allow(Priced(), (0,)) == (limits.max_params != 4)
    assert told == computed


def test_a_subnet_is_limited_by_what_is_handed_over(run, tmp_path):
    """Convolutions that nothing reads are left out, and so are not counted."""
    dead, lean = (3, 0, 0, 1, 0, 0), (0, 0, 0, 1, 0, 0)
    (tmp_path / "list.json").write_text(json.dumps([dead]))
    most = counted(lean)
    assert counted(dead) > most
    found = search_run(run, Limits(max_params=most), subnets=tmp_path / "list.json", images=32, device="cpu")
    assert (found["best"]["subnet"], found["best"]["params"]) == (list(lean), most)
    with pytest.raises(UserError, match=r"no subnet of .*list\.json keeps to min params"):
        search_run(
            run, Limits(min_params=most + 1), subnets=tmp_path / "list.json", images=32, name="least", device="cpu"
        )


# lists

NOTATION = "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"


def test_subnets_from_file(tmp_path):
    path = tmp_path / "list.json"
    entries = [0, 15624, NOTATION, [3, 3, 3, 3, 3, 3], "7", 5**5]
    expected = [
        (0, 0, 0, 0, 0, 0), (4, 4, 4, 4, 4, 4), (0, 1, 2, 3, 4, 0), (3, 3, 3, 3, 3, 3), (0, 0, 0, 0, 1, 2),
        (1, 0, 0, 0, 0, 0),
    ]  # fmt: skip
    path.write_text(json.dumps(entries))
    assert subnets_from_file(f"released:{path}", SPACE, tmp_path) == expected
    assert subnets_from_file(Path("released:list.json"), SPACE, tmp_path) == expected  # one under the root
    path.write_text(json.dumps([f"released:{e}" if str(e).isdigit() else e for e in entries]))
    for name in (str(path), f"released:{path}", f"nats:{path}"):  # an entry's own order counts
        assert subnets_from_file(name, SPACE, tmp_path) == expected


@pytest.mark.parametrize("entries", [[12], [NOTATION, "12"], ["nats:12"], [[0] * 6, 12]])
def test_numbers_without_an_order_are_refused(entries, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries))
    name = f"nats:{path}" if entries == [[0] * 6, 12] else path
    with pytest.raises(UserError) as refusal:
        subnets_from_file(name, SPACE, tmp_path)
    official = "nats" in f"{name}{entries}"
    assert ("'nats:12': only a table" if official else "'12': a number needs its order") in str(refusal.value)
    assert str(refusal.value).startswith(f"subnet list {path}: ")


def test_the_official_order_is_the_tables(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([1, "nats:0", "released:1", NOTATION]))
    orders = {"nats": {0: (4,) * 6, 1: (2,) * 6, 9: (1,) * 6}}
    expected = [(2,) * 6, (4,) * 6, (0, 0, 0, 0, 0, 1), (0, 1, 2, 3, 4, 0)]
    assert subnets_from_file(f"nats:{path}", SPACE, tmp_path, orders) == expected
    with pytest.raises(UserError, match="'1': a number needs its order"):
        subnets_from_file(path, SPACE, tmp_path, orders)
    path.write_text("[2]")
    with pytest.raises(UserError, match="'nats:2': the benchmark numbers 3 subnets, from 0 to 9"):
        subnets_from_file(f"nats:{path}", SPACE, tmp_path, orders)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "list.json cannot be read"),
        (b"", "list.json cannot be read"),
        (b"[1, 2", "list.json cannot be read"),
        (b"\xff\xfe\x00", "list.json cannot be read"),
        (b"[]", "list.json must be a JSON list with at least one subnet"),
        (b'{"subnets": [1]}', "list.json must be a JSON list"),
        (b"7", "list.json must be a JSON list"),
        (b"[15625]", "15625"),
        (b'["released:15625"]', "0 to 15624"),
        (b"[-1]", "'-1'"),
        (b"[1.5]", "'1.5'"),
        (b"[null]", "'None'"),
        (b'["|none~0|"]', "none~0"),
        (b'["' + NOTATION.replace("1x1", "5x5").encode() + b'"]', "nor_conv_5x5"),
        (b"[[0, 0, 0]]", "6 decisions"),
        (b"[[0, 0, 0, 0, 0, 5]]", "option 5 of decision '3<-2'"),
        (b"[[0, 0, 0, 0, 0, -1]]", "option -1"),
        (b'[[0, 0, 0, 0, 0, "3"]]', "option 3"),
        (b"[[0, 0, 0, 0, 0, 0], [[0], 0, 0, 0, 0, 0]]", "decision '1<-0'"),
        (b"[[0, 0, 0, 0, 0, true]]", "option True"),
    ],
)
def test_bad_list_is_refused(content, message, tmp_path):
    path = tmp_path / "list.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        subnets_from_file(path, SPACE, tmp_path)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_list_of_a_restricted_space_holds_its_own_subnets(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('["released:0"]')
    with pytest.raises(UserError, match="option 0 of decision '1<-0' is none of 3"):
        subnets_from_file(path, SPACE.restrict("1<-0", "nor_conv_3x3"), tmp_path)


# search of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    config = dataclasses.replace(preset("smoke"), epochs=1)
    folder = tmp_path_factory.mktemp("search") / "run"
    return train(config, load("digits", resolution=8), folder, device="cpu", say=lambda line: None)


@pytest.fixture(scope="module")
def scored(run) -> tuple[list, np.ndarray, np.ndarray]:
    """Forty subnets with their accuracy and loss, by brute force."""
    _, supernet = load_run(run)
    data = load("digits", resolution=8)
    subnets = [ALL[i] for i in np.random.default_rng(0).choice(len(ALL), 40, replace=False)]
    scores = evaluate(supernet, subnets, heldout_batches(mixture(data.valid), 256, Normalise(data.train)))
    return subnets, 100 * scores.correct.mean(1), scores.loss.mean(1, dtype=float)


@pytest.mark.parametrize("limits", [Limits(), Limits(max_params=15_000, max_flops=100_000, min_params=6_000)], ids=str)
@pytest.mark.parametrize("by", ["accuracy", "loss"])
def test_search_finds_the_best_of_a_list(by, limits, run, scored, tmp_path):
    """Each as the leanest of its form, once: that is what limits say and what is handed over."""
    subnets, accuracy, loss = scored
    path = tmp_path / "list.json"
    path.write_text(json.dumps(subnets))
    name = f"by-{by}-{limits.max_params}"
    found = search_run(run, limits, subnets=path, by=by, name=name, device="cpu")
    named = {SPACE.canonical(subnet): i for i, subnet in enumerate(subnets)}
    assert len(named) < len(subnets)
    subnets = [SPACE.canonical(subnet) for subnet in subnets]
    ok = [i for i in named.values() if allowed_by(limits)[ALL.index(subnets[i])]]
    assert found["candidates"] == len(ok) > 10
    assert (len(ok) == len(named)) == (limits == Limits())
    order = sorted(ok, key=lambda i: (-accuracy[i], loss[i]) if by == "accuracy" else (loss[i], -accuracy[i]))
    score, values = ("accuracy", accuracy) if by == "accuracy" else ("loss", loss)
    assert [row[score] for row in found["top"]] == pytest.approx([values[i] for i in order[:10]], rel=1e-4)
    best = found["best"]
    assert best["arch"] == SPACE.format(subnets[order[0]])
    assert best["subnet"] == list(subnets[order[0]])
    assert (best["accuracy"], best["loss"]) == pytest.approx((accuracy[order[0]], loss[order[0]]), rel=1e-4)
    assert (best["params"], best["flops"]) == (counted(subnets[order[0]]), SPACE.flops(subnets[order[0]]))
    assert read_json(run / f"{name}.json") == json.loads(json.dumps(found))


def test_accuracy_and_loss_disagree_on_these(scored):
    """Else the test above could not tell them apart."""
    _, accuracy, loss = scored
    assert sorted(accuracy, reverse=True)[:10] != accuracy[np.argsort(loss)][:10].tolist()


def test_search_of_a_sample_is_repeatable(run):
    limits = Limits(max_params=9_000)
    first = search_run(run, limits, How(sample=12, seed=3), images=64, name="third", device="cpu")
    assert search_run(run, limits, How(sample=12, seed=3), images=64, name="third", device="cpu") == first
    other = search_run(run, limits, How(sample=12, seed=4), images=64, name="fourth", device="cpu")
    assert other["top"] != first["top"]
    assert (first["candidates"], first["images"]) == (12, 64)
    assert all(counted(tuple(row["subnet"])) <= 9_000 for row in first["top"])


def test_figures_that_are_kept_are_of_the_images_of_a_search(run, scored, tmp_path):
    """A search on few images and then one on all: neither takes the other's figures for its own."""
    own, path = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "list.json"
    subnets, accuracy, loss = scored
    for store in own.glob(".search-*"):
        store.unlink()
    path.write_text(json.dumps(subnets[:6]))
    found = {}
    for images in (32, None):
        search_run(own, Limits(), subnets=path, images=images, name=f"of-{images}", device="cpu")
        rows = pq.read_table(own / f"of-{images}.parquet").to_pylist()
        found[images] = {row["arch"]: (row["accuracy"], row["loss"]) for row in rows}
    assert len(list(own.glob(".search-*.jsonl"))) == 2
    for i, subnet in enumerate(subnets[:6]):
        arch = SPACE.format(SPACE.canonical(subnet))
        assert found[None][arch] == pytest.approx((accuracy[i], loss[i]), rel=1e-4)
        assert found[32][arch] != pytest.approx((accuracy[i], loss[i]), rel=1e-4)


def test_search_without_a_finished_run_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        search_run(tmp_path, Limits())
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(UserError, match="not finished"):
        search_run(tmp_path, Limits())


# what retraining reads


def test_choice_of_a_search(run):
    best = search_run(run, Limits(), How(sample=5), images=32, name="five", device="cpu")["best"]
    config, (subnet,) = read_choice(str(run / "five.json"))
    assert config.space.parse(subnet) == tuple(best["subnet"])
    assert (config.space, config.dataset) == (SPACE, "digits")


def test_choice_of_a_subnet():
    assert read_choice("7")[1] == ["7"]
    assert read_choice(NOTATION)[1] == [NOTATION]
    assert read_choice("7")[0].dataset == "cifar10"


SEARCH = {"space": {"name": "nasbench201", "channels": 4}, "dataset": "digits", "best": {"arch": NOTATION}}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "null",
        "{}",
        json.dumps({**SEARCH, "best": None}),
        json.dumps({**SEARCH, "best": {}}),
        json.dumps({key: value for key, value in SEARCH.items() if key != "dataset"}),
        json.dumps({**SEARCH, "space": {"name": "mars"}}),
        json.dumps({**SEARCH, "space": {"channels": 4}}),
        json.dumps({**SEARCH, "space": {"name": "nasbench201", "depth": 4}}),
        json.dumps({**SEARCH, "space": "nasbench201"}),
    ],
)
def test_bad_search_result_is_refused(content, tmp_path):
    path = tmp_path / "search.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"search\.json is no search result") as refusal:
        read_choice(str(path))
    assert "\n" not in str(refusal.value)


def test_good_search_result_is_read(tmp_path):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(SEARCH))
    assert read_choice(str(path))[1] == [NOTATION]
