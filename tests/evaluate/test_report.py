"""What is told of the scores: tables, verdict, sentences."""

import json

import pytest

from helpers.evaluate import grading, report


def rows(texts, seconds=0.5):
    return [
        {"text": text, "stopped": text != "cut", "confidence": 0.5, "seconds": seconds}
        for text in texts
    ]


def compared(**verdicts):
    """Comparisons with these verdicts, {system: verdict}; the figures do not matter."""
    return {
        f"merged_vs_{system}": {
            "difference": 0.1,
            "ci95": [0.05, 0.15],
            "p_value": 0.0001,
            "verdict": verdict,
        }
        for system, verdict in verdicts.items()
    }


RIGHT = ["a"] * 10 + ["b"] * 10
ANSWERS = {
    "majority": rows(["a"] * 20, 0.001),
    "tfidf_logreg": rows(RIGHT[:15] + ["a"] * 5, 0.002),
    "base_zero_shot": rows(["cut"] * 20),
    "merged": rows(RIGHT),
}


@pytest.fixture
def scored():
    rules = grading.choose(["a", "b"], [])
    scores = {name: rules.score([r["text"] for r in a], RIGHT) for name, a in ANSWERS.items()}
    measured = report.measure(ANSWERS, scores, rules, {"merged": 12.3}, 200, 1)
    return rules, {name: found["accuracy"] for name, found in scores.items()}, measured


def test_each_system_has_figures_of_its_own(scored):
    rules, _, measured = scored
    assert [measured[name]["accuracy"] for name in ANSWERS] == [0.5, 0.75, 0, 1]
    assert [measured[name]["seconds"] for name in ANSWERS] == pytest.approx(
        [0.001, 0.002, 0.5, 0.5]
    )
    assert measured["base_zero_shot"]["cut"] == measured["base_zero_shot"]["invalid"] == 1
    assert measured["merged"]["memory_mb"] == 12.3 and measured["majority"]["memory_mb"] is None
    table = report.table(measured, rules)
    assert list(table.index)[:2] == ["always the same answer", "word statistics"]
    assert list(table["accuracy"]) == ["50.0 %", "75.0 %", "0.0 %", "100.0 %"]
    assert list(table["memory"]) == ["", "", "", "12 MB"] and "not a label" in table.columns


def test_the_merged_model_is_compared_with_all_but_the_adapter(scored):
    _, values, measured = scored
    values = values | {"adapter": values["merged"]}
    comparison = report.comparisons(values, 200, 1)
    assert list(comparison) == [
        "merged_vs_majority",
        "merged_vs_tfidf_logreg",
        "merged_vs_base_zero_shot",
    ]
    table = report.comparison_table(comparison)
    assert list(table["points"]) == ["+50.0", "+25.0", "+100.0"]
    assert table.loc["base (zero-shot)", "p"] == "below 0.001"
    first, *others = report.mail(measured, comparison, "accuracy")
    assert first == (
        "Points out of 100 (accuracy): tuned (merged) 100, base (zero-shot) 0, word statistics 75, "
        "always the same answer 50."
    )
    assert others[0].startswith("The tuned model is better than the model before tuning")
    assert len(others) == 4


@pytest.mark.parametrize(
    "verdicts, verdict, advice",
    [
        (["better", "better", "better", "better"], "better", report.USE),
        (["better", "not shown", "better", "better"], "better", "Use the simple method"),
        (["better", "better", "better", "not shown"], "not shown", report.NOT_YET),
        (["not shown", "better", "better", "better"], "not shown", report.NOT_YET),
        (["better", "better", "worse", "better"], "worse", report.NOT_YET),
    ],
)
def test_better_takes_the_base_in_every_guise_and_the_constant(verdicts, verdict, advice):
    names = ("majority", "nearest_answer", "base_zero_shot", "base_few_shot")
    comparison = compared(**dict(zip(names, verdicts, strict=True)))
    assert report.verdict(comparison) == verdict
    assert report.advice(comparison).startswith(advice)


def test_what_is_said_most_often():
    table = report.most_frequent({"majority": ["a", "a"], "merged": ["b", "b", "a", "\x1b"]})
    assert list(table["most frequent answer"]) == ["a", "b"]
    assert list(table["share"]) == ["100.0 %", "50.0 %"]


def test_predictions_hold_what_every_system_said():
    found = report.predictions([str(i) for i in range(20)], RIGHT, ANSWERS)
    first = json.loads(found.to_json(orient="records", lines=True).splitlines()[0])
    assert first == {
        "id": "0",
        "answer": "a",
        "majority": "a",
        "tfidf_logreg": "a",
        "base_zero_shot": "cut",
        "merged": "a",
        "stopped": {
            "majority": True,
            "tfidf_logreg": True,
            "base_zero_shot": False,
            "merged": True,
        },
        "confidence": dict.fromkeys(ANSWERS, 0.5),
    }
