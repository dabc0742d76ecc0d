"""Slices: a metric by the values of columns, against values from elsewhere and by simulation."""

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.metrics import evaluate, find_metric
from pipeline.evaluation.significance import agresti_coull, holm
from pipeline.evaluation.slices import find_slices

ACCURACY, LOSS = find_metric("accuracy"), find_metric("log_loss")


def outcomes(right, groups=None):
    """Return test rows of two classes, and probabilities that are right on some of them."""
    y = np.arange(len(right)) % 2
    grouped = groups is not None
    rows = HeldOut(y, groups if grouped else np.arange(len(y)), 4 * len(y), grouped)
    chances = np.eye(2)[np.where(right, y, 1 - y)] * 0.8 + 0.1
    return rows, chances


def by_name(found):
    return {(each.column, each.value): each for each in found.slices}


def test_slices_of_accuracy_are_fishers_and_agrestis():
    """Sites of 40, 30 and 30 images, of which 20, 27 and 27 are right; two cameras."""
    site = np.repeat(["s", "t", "u"], (40, 30, 30))
    right = np.concatenate([np.arange(40) < 20, np.arange(30) < 27, np.arange(30) < 27])
    camera = np.where(np.arange(100) % 4 == 0, "x", "y")
    rows, p = outcomes(right)
    found = find_slices(ACCURACY, rows, p, {"site": list(site), "camera": list(camera)})
    tables = [[[20, 20], [54, 6]], [[27, 3], [47, 23]], [[27, 3], [47, 23]]]
    hits = [int(right[camera == each].sum()) for each in "xy"]
    tables.append([[hits[0], 25 - hits[0]], [hits[1], 75 - hits[1]]])  # both cameras need one test
    adjusted = holm([stats.fisher_exact(table).pvalue for table in tables])
    named = by_name(found)
    assert [named["site", each].p_value for each in "stu"] == pytest.approx(adjusted[:3])
    assert named["camera", "x"].p_value == named["camera", "y"].p_value == pytest.approx(adjusted[3])
    assert found.tests == 4 and found.left_out == {} and found.slices[0] == named["site", "s"]
    worst = named["site", "s"]
    assert (worst.rows, worst.metric, worst.rest) == (40, 0.5, 0.9) and worst.interval == pytest.approx(
        agresti_coull(0.5, 40)
    )
    assert worst.p_value < 0.001


def test_slices_of_another_metric_have_its_values():
    random = np.random.default_rng(0)
    y, site = np.arange(120) % 3, np.repeat(["s", "t"], 60)
    p = random.dirichlet(np.ones(3), 120)
    p[:60] = 0.5 * p[:60] + 0.5 * np.eye(3)[y[:60]]
    found = by_name(find_slices(LOSS, HeldOut(y, np.arange(120), 480), p, {"site": list(site)}))
    for name, some in (("s", slice(60)), ("t", slice(60, None))):
        each = found["site", name]
        assert each.metric == pytest.approx(evaluate(y[some], p[some])["log_loss"])
        assert each.interval[0] < each.metric < each.interval[1] and each.p_value < 0.01


def test_bins_of_long_numbers_do_not_read_alike():
    """Days as eight digits: six would give the two middle bins one name, and make them one slice."""
    rows, p = outcomes(np.arange(80) % 5 > 0)
    found = by_name(find_slices(ACCURACY, rows, p, {"day": [str(20230100 + row // 3) for row in range(80)]}))
    assert {value: each.rows for (_, value), each in found.items()} == {
        "up to 20230106": 21, "20230106 to 20230113": 21, "20230113 to 20230119": 18, "above 20230119": 20,
    }  # fmt: skip


def test_columns_that_say_nothing_are_left_out_and_numbers_are_cut_into_bins():
    rows, p = outcomes(np.arange(80) % 5 > 0)
    columns = {
        "one": ["same"] * 80,
        "name": [f"n{row}" for row in range(80)],
        "age": [str(row / 2) for row in range(80)],
        "grade": [str(row % 3) for row in range(80)],
        "rare": ["a"] * 45 + ["b"] * 30 + ["c"] * 5,
    }
    found = find_slices(ACCURACY, rows, p, columns)
    sizes = {name: each.rows for name, each in by_name(found).items()}
    assert {value: size for (column, value), size in sizes.items() if column == "age"} == {
        "up to 9.875": 20, "9.875 to 19.75": 20, "19.75 to 29.625": 20, "above 29.625": 20,
    }  # fmt: skip
    assert {value for column, value in sizes if column == "grade"} == {"0", "1", "2"}
    assert {value for column, value in sizes if column == "rare"} == {"a", "b"}
    assert set(found.left_out) == {"one", "name", "rare"}
    assert found.left_out["name"] == "it has 80 different values on 80 test images"
    assert found.left_out["rare"].startswith("1 of its 3 values")
    assert found.tests == 4 + 3 + 2


def test_groups_that_are_all_alike_are_no_proof():
    """Ten groups of ten images, three of which are all wrong: two of the four in the slice."""
    groups = np.repeat(np.arange(10), 10)
    right = ~np.isin(groups, [0, 1, 9])
    site = list(np.where(groups < 4, "s", "t"))
    rows, p = outcomes(right, groups)
    grouped, alone = (
        by_name(find_slices(ACCURACY, each, p, {"site": site}))["site", "s"] for each in (rows, outcomes(right)[0])
    )
    assert alone.p_value < 0.001 and (grouped.units, alone.units) == (4, 40)
    # By hand, of all 210 choices of four groups: those with 0, 2 or 3 of the wrong ones are as far apart.
    extreme = sum(stats.hypergeom.pmf(k, 10, 3, 4) for k in (0, 2, 3))  # differences 1/2, -1/3 and -3/4, not 1/12
    assert grouped.p_value == pytest.approx(extreme, abs=0.03)
    assert np.ptp(grouped.interval) > np.ptp(alone.interval)
    own = find_slices(ACCURACY, rows, p, {"group": [str(group) for group in groups]})
    assert own.slices == () and own.left_out["group"].endswith("10 test images or 3 groups")


@pytest.mark.parametrize("way", ["nested", "crossing", "crossing few"])
def test_slices_that_mean_nothing_rarely_stand_out(way):
    """Groups on one side, on both, and a fifth of them on both; the last stood out in 0.1 with the freedom of all groups."""
    random, out, times = np.random.default_rng(0), 0, 40
    for _ in range(times):
        groups = np.repeat(np.arange(16), 8)
        right = random.random(128) < 1 / (1 + np.exp(-1 - random.normal(size=16)))[groups]
        inside = (random.permutation(16) < 6)[groups] if way == "nested" else random.random(128) < 0.4
        if way == "crossing few":
            inside &= groups < 4
        found = find_slices(ACCURACY, *outcomes(right, groups), {"site": list(np.where(inside, "s", "t"))})
        out += found.slices[0].p_value is not None and found.slices[0].p_value < 0.05
    assert out / times <= 0.1
