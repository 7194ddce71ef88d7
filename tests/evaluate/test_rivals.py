"""The simpler rivals."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers.evaluate import rivals, scoring


def test_the_linear_rival_learns_words():
    texts = [f"{'good' if i % 2 else 'bad'} thing {i}" for i in range(40)]
    rival = rivals.linear_rival(texts, ["ab"[i % 2] for i in range(40)], 0)
    assert list(rival.predict(["a good day", "a bad day"])) == ["b", "a"]


def test_pairs_of_words_count():
    texts = [f"{'not good' if i % 2 else 'good not'} {i}" for i in range(40)]
    rival = rivals.linear_rival(texts, ["ab"[i % 2] for i in range(40)], 0)
    assert list(rival.predict(["not good", "good not"])) == ["b", "a"]


def test_texts_without_spaces_are_read_by_characters():
    texts = ["水管漏水了", "今天停水", "账单太高", "请改地址"] * 5
    assert rivals.linear_rival(texts, ["a", "a", "b", "b"] * 5, 0).predict(["停水"])[0] == "a"
    signs = ["👍", "👎"] * 5
    assert rivals.linear_rival(signs, ["yes", "no"] * 5, 0).predict(["👎"])[0] == "no"


def test_a_class_of_one_row_does_not_stop_it():
    texts = [f"{'good' if i % 2 else 'bad'} thing {i}" for i in range(40)]
    labels = ["ab"[i % 2] for i in range(40)]
    rival = rivals.linear_rival([*texts, "odd"], [*labels, "c"], 0)
    assert rival.predict(["a good day"])[0] == "b" and "c" in rival.classes_
    assert set(rivals.linear_rival(["x", "y", "z"], ["a", "b", "b"], 0).classes_) == {"a", "b"}


def test_the_seed_decides_the_folds():
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(["red", "blue", "old", "new"], 3)) for _ in range(60)]
    labels = ["a" if "red" in text else "b" for text in texts]
    first, second = (rivals.linear_rival(texts, labels, 3) for _ in range(2))
    assert np.array_equal(first.predict_proba(texts), second.predict_proba(texts))


def exact(given, right):
    return float(given == right)


def test_of_labels_the_most_frequent_is_the_best_constant():
    assert rivals.best_constant(["a", "b", "b"], None, 0) == "b"
    assert rivals.best_constant(['{"c":"x"}', '{"c":"x"}'], None, 0) == '{"c":"x"}'


def test_of_texts_the_one_that_scores_best():
    texts = ["it is red", "it is blue", "dogs"]
    assert rivals.best_constant(texts, scoring.token_f1, 0).startswith("it is")


def test_of_objects_the_most_frequent_value_of_each_field():
    orders = ['{"n": 1, "d": null}', '{"n": 2, "d": null}', '{"n": 1, "d": "ü", "more": true}']
    best = rivals.best_constant(orders, exact, 0)
    assert json.loads(best) == {"n": 1, "d": None, "more": True}
    assert "ü" in rivals.best_constant([orders[2]], exact, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_no_more_than_so_many_texts_are_tried(count):
    tried = []

    def score(given, right):
        tried.append((given, right))
        return 1.0

    rivals.best_constant([f"text {i}" for i in range(50)], score, 0, count=count)
    assert len({given for given, _ in tried}) == len({right for _, right in tried}) == count


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
