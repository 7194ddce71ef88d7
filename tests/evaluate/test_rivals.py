"""The simpler rivals."""

import pandas as pd

from helpers.evaluate import rivals, scoring


def test_the_linear_rival_learns_words():
    texts = [f"{'good' if i % 2 else 'bad'} thing {i}" for i in range(40)]
    rival = rivals.linear_rival(texts, ["ab"[i % 2] for i in range(40)], 0)
    assert list(rival.predict(["a good day", "a bad day"])) == ["b", "a"]
    stray = rivals.linear_rival([*texts, "odd"], [*("ab"[i % 2] for i in range(40)), "c"], 0)
    assert stray.predict(["a good day"])[0] == "b"
    chinese = ["水管漏水了", "今天停水", "账单太高", "请改地址"] * 5
    assert rivals.linear_rival(chinese, ["a", "a", "b", "b"] * 5, 0).predict(["停水"])[0] == "a"
    assert rivals.linear_rival(["x", "y", "z"], ["a", "b", "b"], 0).predict(["x"])[0] in "ab"


def test_the_best_constant_answer():
    def exact(given, right):
        return float(given == right)

    assert rivals.best_constant(["a", "b", "b"], None, 0) == "b"
    assert rivals.best_constant(['{"c":"x"}', '{"c":"x"}'], None, 0) == '{"c":"x"}'
    assert rivals.best_constant(
        ["it is red", "it is blue", "dogs"], scoring.token_f1, 0
    ).startswith("it is")
    orders = ['{"n": 1, "d": null}', '{"n": 2, "d": null}', '{"n": 1, "d": "x"}']
    assert rivals.best_constant(orders, exact, 0) == '{"n": 1, "d": null}'


TRAIN = pd.DataFrame(
    {
        "question": [f"{'good' if i % 3 else 'bad'} thing {i}" for i in range(30)],
        "answer": [f" {'yes' if i % 3 else 'no'} " for i in range(30)],
    }
)


def test_rivals_answer_as_models_do():
    asked = ["a good day", "a bad thing"]
    constant = rivals.constant(TRAIN, asked, None, 0)
    learned = rivals.tfidf_logreg(TRAIN, asked, 0)
    nearest = rivals.nearest_answer(TRAIN, ["good thing 4", "bad thing 3"], 0)
    assert [row["text"] for row in constant] == ["yes", "yes"]
    assert [row["text"] for row in learned] == [row["text"] for row in nearest] == ["yes", "no"]
    for row in (*constant, *learned, *nearest):
        assert row["stopped"] and row["confidence"] is None and row["seconds"] >= 0


def test_each_rival_reports_its_own_seconds():
    asked = ["a good day"] * 5
    constant = rivals.constant(TRAIN, asked, None, 0)
    learned = rivals.tfidf_logreg(TRAIN, asked, 0)
    assert constant[0]["seconds"] < learned[0]["seconds"]
