"""What counts as right, for each kind of answers; nothing is shown that concerns another kind."""

import matplotlib

matplotlib.use("agg")  # no window, on a machine without a screen
import matplotlib.pyplot as plt
import pytest

from helpers.evaluate import grading

OBJECTS = ['{"n": 1, "d": null}', '{"n": 2, "d": null}']


@pytest.mark.parametrize(
    "labels, answers, kind, decides",
    [
        (["a", "b"], ["a", "b"], grading.Labels, "accuracy"),
        ([], OBJECTS, grading.Objects, "field_accuracy"),
        ([], [*OBJECTS, "[1]"], grading.Texts, "token_f1"),
        (None, ["as you like"], grading.Texts, "token_f1"),
    ],
)
def test_the_answers_decide(labels, answers, kind, decides):
    chosen = grading.choose(labels, answers)
    assert type(chosen) is kind and chosen.decides == decides in chosen.scorers


def test_labels_are_right_or_wrong():
    rules = grading.choose(["a", "b"], [])
    assert rules.score(["a", "b", "A"], ["a", "a", "a"]) == {"accuracy": [1, 0, 0]}
    assert rules.valid("a") and not rules.valid("A")
    assert rules.deciding_score is None
    right, texts = ["a", "b", "b"], {"merged": ["a", "b", "c"], "majority": ["b"] * 3}
    table = rules.table(right, texts)
    assert list(table.index) == ["a", "b"] and list(table["recall"]) == [1, 0.5]
    assert list(table["support"]) == [1, 2]
    details = rules.details(right, texts)
    assert details["fields"] is None and details["per_class"]["b"]["precision"] == 1
    assert rules.picture(right, texts["merged"]).axes
    plt.close("all")


def test_json_answers_earn_a_part_for_each_field():
    rules = grading.choose([], OBJECTS)
    given = [OBJECTS[0], "no JSON"]
    assert rules.score(given, [OBJECTS[1]] * 2)["field_accuracy"] == [0.5, 0]
    assert [rules.valid(text) for text in given] == [True, False]
    details = rules.details([OBJECTS[0]] * 2, {"merged": given, "adapter": OBJECTS})
    assert details["fields"]["merged"] == {"n": 0.5, "d": 0.5} and details["per_class"] is None
    table = rules.table([OBJECTS[0]] * 2, {"merged": given, "adapter": OBJECTS})
    assert list(table.columns) == ["n", "d"]
    assert list(table.loc["tuned (adapter)"]) == [0.5, 1]
    assert rules.picture(OBJECTS, OBJECTS) is None
    assert rules.deciding_score(*OBJECTS) == 0.5


def test_free_answers_are_counted_by_how_nearly_right_they_are():
    rules = grading.choose([], ["it is red"])
    texts = {"merged": ["it is red", "blue", "it is as blue as it gets", "it is blue"]}
    table = rules.table(["it is red"] * 4, texts)
    assert list(table.columns) == list(grading.BANDS)
    assert list(table.loc["tuned (merged)"]) == [1, 1, 1, 1]
    assert rules.valid("anything") and not rules.valid("")
    assert rules.details([], {}) == {"per_class": None, "fields": None}
    assert rules.picture([], []) is None
