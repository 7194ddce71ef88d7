"""Evaluation: intervals, paired tests, scores."""

import math

import numpy as np
import pytest

from helpers.evaluate import scoring


def test_bootstrap_agrees_with_the_binomial():
    right = np.arange(400) < 300
    low, high = scoring.bootstrap_interval(right, 4000, 0)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert abs(low - (0.75 - half)) < 0.01 and abs(high - (0.75 + half)) < 0.01


def test_an_interval_when_all_rows_are_wrong_or_right_is_not_empty():
    low, high = scoring.bootstrap_interval([0] * 300, 100, 0)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 300))
    assert scoring.bootstrap_interval([True] * 300, 100, 0) == pytest.approx((1 - high, 1))
    assert scoring.compare([1, 1, 0], [1, 1, 0], 100, 0)["ci95"] == [0, 0]


def test_mcnemar_counts_the_rows_where_one_is_right():
    tuned, rival = np.array([1] * 12 + [0] * 3 + [1] * 50), np.array([0] * 12 + [1] * 3 + [1] * 50)
    found = scoring.compare(tuned, rival, 1000, 0)
    by_hand = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert found["p_value"] == pytest.approx(by_hand) and found["verdict"] == "better"
    assert scoring.compare(rival, tuned, 1000, 0)["verdict"] == "worse"
    assert scoring.compare(tuned, tuned, 1000, 0)["verdict"] == "not shown"


def test_a_verdict_by_chance_is_rare():
    generator, verdicts = np.random.default_rng(0), []
    for _ in range(200):
        pair = generator.integers(0, 2, (2, 100))
        verdicts.append(scoring.compare(pair[0], pair[1], 200, 0)["verdict"])
    assert verdicts.count("not shown") >= 184  # 5 % are allowed


def test_graded_scores_get_the_paired_bootstrap():
    generator = np.random.default_rng(0)
    rival = generator.random(200)
    found = scoring.compare(rival + 0.1 * generator.random(200), rival, 1000, 0)
    assert (
        found["test"] == "permutation" and found["verdict"] == "better" and found["ci95"][0] > 0.04
    )


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
    assert scoring.smallest_difference(2) == 1.0
    assert 0.2 < scoring.smallest_difference(30) < scoring.smallest_difference(20) < 0.5


def test_scores_of_free_answers():
    assert scoring.token_f1("the cat sat", "The cat ran!") == pytest.approx(2 / 3)
    assert scoring.token_f1("", "") == 1 and scoring.token_f1("", "a") == 0
    assert scoring.token_f1("👍", "👎") == 0 and scoring.token_f1("👍", "👍") == 1
    assert scoring.rouge_l("вода есть", "вода есть") == 1
    assert scoring.field_accuracy('{"urgent": 1}', '{"urgent": true}') == 0
    assert scoring.parsed("[" * 5000) is None
    assert scoring.rouge_l("the cat sat on mat", "the cat is on the mat") == pytest.approx(
        2 * 4 / 11
    )
    right = '{"a": 1, "b": null}'
    assert scoring.field_accuracy('{"b": null, "a": 2}', right) == 0.5
    assert (
        scoring.field_accuracy("{", right) == 0 and scoring.field_accuracy('{"a": 1}', right) == 0.5
    )
    assert scoring.parsed("[1]") is None
    assert scoring.field_accuracy('{"a": {"y": 2, "x": 1}}', '{"a": {"x": 1, "y": 2}}') == 1
    assert scoring.words("GPT-4说我喜欢2苹果") == ["gpt", "4", *"说我喜欢", "2", *"苹果"]
    assert scoring.token_f1("我喜欢苹果", "我喜欢苹果和梨") == pytest.approx(10 / 12)


def test_fields_are_counted_one_by_one():
    given = ['{"n": 1, "d": null}', '{"n": 2, "d": null}', "no JSON"]
    assert scoring.per_field(given, [given[0]] * 3) == {"n": 1 / 3, "d": 2 / 3}
