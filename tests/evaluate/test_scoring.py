"""Intervals, paired tests and scores: against formulas, by hand, and by simulation."""

import math

import numpy as np
import pytest

from helpers.evaluate import scoring


def test_the_bootstrap_agrees_with_the_binomial():
    right = np.arange(400) < 300
    low, high = scoring.bootstrap_interval(right, 4000, 0)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert abs(low - (0.75 - half)) < 0.01 and abs(high - (0.75 + half)) < 0.01


def test_the_bootstrap_is_the_percentiles_of_resampled_means():
    values = np.random.default_rng(1).random(50)
    low, high = scoring.bootstrap_interval(values, 2000, 0)
    drawn = np.random.default_rng(5).integers(0, 50, (200_000, 50))
    expected = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    noise = values.std() / 50**0.5 / 2000**0.5 * 3  # of a percentile of 2000, and more
    assert [low, high] == pytest.approx(expected, abs=3 * noise)
    assert scoring.bootstrap_interval(values, 2000, 0) == (low, high)
    assert scoring.bootstrap_interval(values, 2000, 1) != (low, high)


def test_resamples_are_drawn_in_blocks_that_fit_into_memory(monkeypatch):
    values = np.random.default_rng(0).random(1000)
    monkeypatch.setattr(scoring, "DRAWN_AT_ONCE", 5000)
    sizes = []

    def noted(sample, axis):
        sizes.append(sample.size)
        return sample.mean(axis=axis)

    monkeypatch.setattr(np, "mean", noted)
    scoring.bootstrap_interval(values, 100, 0)
    assert max(sizes) == 5000


def test_an_interval_when_all_rows_are_wrong_or_right_is_not_empty():
    low, high = scoring.bootstrap_interval([0] * 300, 100, 0)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 300))
    assert scoring.bootstrap_interval([True] * 300, 100, 0) == pytest.approx((1 - high, 1))
    assert scoring.bootstrap_interval([0.5] * 9, 100, 0) == (0.5, 0.5)
    assert scoring.bootstrap_interval([0.5], 100, 0) == (0.5, 0.5)


def test_an_interval_of_differences_that_are_all_alike_is_a_point():
    assert scoring.compare([1, 1, 0], [1, 1, 0], 100, 0)["ci95"] == [0, 0]
    assert scoring.compare([1, 1], [0, 0], 100, 0)["ci95"] == [1, 1]


def test_mcnemar_counts_the_rows_where_one_is_right():
    tuned, rival = np.array([1] * 12 + [0] * 3 + [1] * 50), np.array([0] * 12 + [1] * 3 + [1] * 50)
    found = scoring.compare(tuned, rival, 1000, 0)
    by_hand = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert found["test"] == "McNemar" and found["verdict"] == "better"
    assert found["p_value"] == pytest.approx(by_hand)
    assert found["difference"] == pytest.approx(9 / 65)
    assert found["ci95"][0] < 9 / 65 < found["ci95"][1]
    assert scoring.compare(rival, tuned, 1000, 0)["verdict"] == "worse"
    assert scoring.compare(tuned, tuned, 1000, 0)["verdict"] == "not shown"


def test_a_verdict_by_chance_is_rare():
    generator, verdicts = np.random.default_rng(0), []
    for _ in range(200):
        pair = generator.integers(0, 2, (2, 100))
        verdicts.append(scoring.compare(pair[0], pair[1], 100, 0)["verdict"])
    assert verdicts.count("not shown") >= 184  # 5 % are allowed


def test_graded_scores_get_the_permutation_test():
    rival = np.random.default_rng(0).random(200)
    found = scoring.compare(rival + 0.1 * np.random.default_rng(1).random(200), rival, 1000, 0)
    assert found["test"] == "permutation" and found["verdict"] == "better"
    assert 0.04 < found["ci95"][0] < found["difference"] < found["ci95"][1] < 0.06


def test_the_permutation_test_flips_signs():
    """All 2^n ways of it, when there are fewer than resamples."""
    difference = np.array([0.3, 0.1, 0.25, -0.05])
    signs = np.array(np.meshgrid(*[[1, -1]] * 4)).reshape(4, -1).T
    means = (signs * difference).mean(axis=1)
    by_hand = 2 * (means >= difference.mean() - 1e-9).mean()
    found = scoring.compare(0.5 + difference, np.full(4, 0.5), 1000, 0)
    assert found["p_value"] == pytest.approx(by_hand)


def test_few_graded_rows_show_nothing():
    assert scoring.compare([0.6], [0.5], 1000, 0)["verdict"] == "not shown"
    assert scoring.compare([0.9, 0.5, 0.6], [0.1, 0.4, 0.5], 1000, 0)["verdict"] == "not shown"


def test_the_smallest_difference_would_be_seen_as_often_as_said():
    rows, power = 300, 0.8
    gap = scoring.smallest_difference(rows, discordant=0.2, power=power)
    generator, seen = np.random.default_rng(1), 0
    for _ in range(300):
        draw = generator.random(rows)
        won, lost = draw < (0.2 + gap) / 2, draw > 1 - (0.2 - gap) / 2
        seen += scoring.compare(won, lost, 100, 0)["verdict"] == "better"
    assert abs(seen / 300 - power) < 0.08


def test_the_smallest_difference_shrinks_with_the_rows():
    assert scoring.smallest_difference(2) == 1.0
    assert 0.2 < scoring.smallest_difference(30) < scoring.smallest_difference(20) < 0.5


def test_words_are_those_of_the_script():
    assert scoring.words("Don't pay 20, Straße!") == ["don", "t", "pay", "20", "strasse"]
    assert scoring.words("GPT-4说我喜欢2苹果") == ["gpt", "4", *"说我喜欢", "2", *"苹果"]
    assert scoring.words("👍 …") == []


@pytest.mark.parametrize(
    "given, right, score",
    [
        ("the cat sat", "The cat ran!", 2 / 3),
        ("the the", "the", 2 / 3),
        ("我喜欢苹果", "我喜欢苹果和梨", 10 / 12),
        ("a", "b", 0),
        ("", "", 1),
        ("", "a", 0),
        ("👍", "👎", 0),
        ("👍 ", "👍", 1),
    ],
)
def test_token_f1(given, right, score):
    assert scoring.token_f1(given, right) == pytest.approx(score)


@pytest.mark.parametrize(
    "given, right, score",
    [
        ("the cat sat on mat", "the cat is on the mat", 2 * 4 / 11),
        ("вода есть", "Вода есть", 1),
        ("a b", "b a", 1 / 2),
    ],
)
def test_rouge_l(given, right, score):
    assert scoring.rouge_l(given, right) == pytest.approx(score)


def test_parsed_is_an_object_or_nothing():
    assert scoring.parsed(' {"a": [1]} ') == {"a": [1]}
    for text in ("[1]", "1", "no JSON", "", '{"a": 1', "[" * 5000):
        assert scoring.parsed(text) is None


@pytest.mark.parametrize(
    "given, right, score",
    [
        ('{"b": null, "a": 2}', '{"a": 1, "b": null}', 0.5),
        ('{"a": 1}', '{"a": 1, "b": null}', 0.5),
        ("{", '{"a": 1}', 0),
        ('{"urgent": 1}', '{"urgent": true}', 0),
        ('{"a": {"y": 2, "x": 1}}', '{"a": {"x": 1, "y": 2}}', 1),
        ("{}", "{}", 1),
        ("no JSON", "{}", 0),
    ],
)
def test_field_accuracy(given, right, score):
    assert scoring.field_accuracy(given, right) == score


def test_fields_are_counted_one_by_one():
    given = ['{"n": 1, "d": null}', '{"n": 2, "d": null}', "no JSON"]
    assert scoring.per_field(given, [given[0]] * 3) == {"n": 1 / 3, "d": 2 / 3}
    assert scoring.per_field(["{}", '{"n": 1}'], ['{"d": 1}', '{"n": 1}']) == {"d": 0, "n": 1}
