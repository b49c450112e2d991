import numpy as np
import pytest
from scipy import stats

from regrow.robustness import COMMON, Results, answer, summarise, terminal_text
from regrow.robustness._presentation import tables


def arm(common, *, clean=0.9, extra=0.5):
    return {seed: (clean, value, extra) for seed, value in enumerate(common)}


def test_means_and_intervals_are_those_of_the_table(make_results):
    random = np.random.default_rng(0)
    arms = {
        key: {seed: tuple(random.uniform(0.2, 0.9, 3)) for seed in (0, 1, 2)}
        for key in [("set", 0.5), ("dense", 0.0), ("static", 0.5), ("static", 0.3), ("set", 0.3)]
    }
    summary = summarise(make_results(arms))
    assert [(a.method, a.sparsity) for a in summary.arms] == [
        ("dense", 0.0), ("static", 0.3), ("static", 0.5), ("set", 0.3), ("set", 0.5),
    ]  # fmt: skip
    assert summary.corruptions == ["fog", "saturate"]
    assert (summary.severities, summary.n_seeds, summary.n_common) == ([1, 5], 3, 1)
    by_arm = {(a.method, a.sparsity): a for a in summary.arms}
    for key, found in by_arm.items():
        values = np.array([arms[key][seed] for seed in (0, 1, 2)])
        assert found.clean.mean == pytest.approx(values[:, 0].mean())
        assert found.common.mean == pytest.approx(values[:, 1].mean())
        assert found.everything.mean == pytest.approx(values[:, 1:].mean())
        for control, comparison in (
            (("dense", 0.0), found.versus_dense),
            (("static", key[1]), found.versus_static),
        ):
            if key == control or key[0] == "dense" or (key[0] == control[0] == "static"):
                assert comparison is None
                continue
            others = np.array([arms[control][seed] for seed in (0, 1, 2)])
            gains = values[:, 1] - others[:, 1]
            interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
            assert comparison.common.mean == pytest.approx(gains.mean())
            assert comparison.common.low == pytest.approx(interval.low)
            assert comparison.common.high == pytest.approx(interval.high)
            gains = (values - others)[:, 1:].mean(1)
            assert comparison.everything.mean == pytest.approx(gains.mean())
            assert comparison.clean.mean == pytest.approx((values - others)[:, 0].mean())
        assert found.costs["nnz"] == 11
        assert found.costs["seconds"] == 0.5


UP = [0.60, 0.61, 0.62]
NEAR = [0.50, 0.51, 0.52]
BASE = [0.50, 0.52, 0.51]
DOWN = [0.40, 0.41, 0.42]


@pytest.mark.parametrize(
    ("arms", "start", "words"),
    [
        ({"dense": BASE, "static": BASE, "set": UP}, "Yes: ", "beat static sparse training too"),
        ({"dense": BASE, "static": UP, "set": UP}, "In part: ", "not shown that rewiring"),
        ({"dense": BASE, "set": UP}, "In part: ", "there is no static arm"),
        ({"dense": BASE, "static": BASE, "set": UP, "rigl": NEAR}, "In part: ", "1 of 2 dynamic"),
        ({"dense": BASE, "static": BASE, "set": NEAR}, "Not shown: ", "+0.0"),
        ({"dense": UP, "static": UP, "set": DOWN}, "No: ", "all 1 dynamic arms fall behind"),
        ({"dense": UP, "static": UP, "set": DOWN, "rigl": UP}, "No: ", "1 of 2 dynamic arms"),
        ({"dense": BASE, "static": UP}, "No answer ", "it takes dense training and a dynamic"),
        ({"set": UP, "static": BASE}, "No answer ", "it takes dense training and a dynamic"),
        ({"dense": BASE[:1], "static": BASE[:1], "set": UP[:1]}, "No answer ", "+10.0 points"),
    ],
)
def test_the_answer_is_what_the_intervals_allow(make_results, arms, start, words):
    keys = {method: (method, 0.0 if method == "dense" else 0.5) for method in arms}
    summary = summarise(make_results({keys[m]: arm(values) for m, values in arms.items()}))
    sentence = answer(summary)
    assert sentence.startswith(start)
    assert words.replace("+0.0", "0.0") in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert ("[" in sentence) == (summary.n_seeds > 1 and not start.startswith("No answer"))


def test_many_arms_are_named_by_their_extremes(make_results):
    arms = {("dense", 0.0): arm(BASE)}
    for step, sparsity in enumerate([0.3, 0.4, 0.5, 0.6]):
        arms["set", sparsity] = arm([value - 0.1 * (step + 1) for value in BASE])
    sentence = answer(summarise(make_results(arms)))
    assert "from set at sparsity 0.6 -40.0" in sentence
    assert "to set at sparsity 0.3 -10.0" in sentence
    assert "0.4 -20" not in sentence


def test_without_common_corruptions_all_decide(make_results):
    arms = {("dense", 0.0): arm(BASE), ("set", 0.5): arm(UP)}
    summary = summarise(make_results(arms, common="spatter"))
    assert summary.n_common == 0
    assert summary.arms[1].common is None
    assert "mean over 2 chosen corruptions" in answer(summary)
    assert "common" not in terminal_text(summary)


def test_the_number_of_common_corruptions_is_named(make_results):
    arms = {("dense", 0.0): arm(BASE), ("set", 0.5): arm(UP)}
    parts = [make_results(arms, common=kind).results for kind in COMMON]
    rows = {}
    for part in parts:
        for row in part:
            rows[row["method"], row["seed"], row["corruption"], row["severity"]] = row
    runs = make_results(arms).runs
    full = Results(list(rows.values()), runs, [])
    assert summarise(full).common_name == "15 common"
    without = [row for row in rows.values() if row["corruption"] != "frost"]
    assert summarise(Results(without, runs, [])).common_name == "14 of 15 common"
    shown = terminal_text(summarise(Results(without, runs, [])))
    assert "14 of 15 common" in shown
    assert "all 15" in shown


def test_tables_that_do_not_fit_together_are_refused(make_results):
    good = make_results({("dense", 0.0): arm(BASE), ("set", 0.5): arm(UP)})
    for rows, message in (
        ([], "nothing to report"),
        (good.results[:-1], "differ in"),
        ([*good.results, good.results[0]], "twice"),
        ([{**row, "method": "snip"} for row in good.results], "method must be one of"),
        ([row for row in good.results if row["corruption"] != "clean"], "lacks clean images"),
    ):
        with pytest.raises(ValueError, match=message):
            summarise(Results(rows, good.runs, []))


def test_tables_show_intervals_and_mark_what_excludes_zero(make_results):
    arms = {("dense", 0.0): arm(BASE), ("static", 0.5): arm(NEAR), ("set", 0.5): arm(UP),
            ("rigl", 0.5): arm(DOWN)}  # fmt: skip
    accuracies, dense, static, costs = tables(summarise(make_results(arms)))
    assert accuracies.rows[0] == ["dense", "0", "51.0", "50.5", "90.0"]
    marks = {row[0]: style[2] for row, style in zip(dense.rows, dense.styles, strict=True)}
    assert marks == {"static": "", "set": "good", "rigl": "bad"}
    assert dense.rows[1][2].startswith("+10.0 [")
    assert [row[0] for row in static.rows] == ["set", "rigl"]
    assert len(costs.rows) == 4
    one_seed = tables(summarise(make_results({k: {0: v[0]} for k, v in arms.items()})))
    assert one_seed[1].rows[1][2] == "+10.0"
    assert "interval" not in one_seed[1].title
