"""Simpler rivals of a language model: a constant answer, word statistics, the nearest question."""

import collections
import json
import time

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline

from helpers.data import splits
from helpers.evaluate.scoring import parsed, words


def constant(train, questions, score, seed):
    """The answer of `best_constant` to each of `questions` (list of str), as from `asking.answer`.

    train: DataFrame of training rows; score, seed: as in `best_constant`.
    """
    began = time.monotonic()
    answer = best_constant(train["answer"].str.strip().tolist(), score, seed)
    return _rows([answer] * len(questions), began)


def tfidf_logreg(train, questions, seed):
    """The answers of `linear_rival`, fitted on `train` (DataFrame), as from `asking.answer`."""
    began = time.monotonic()
    rival = linear_rival(train["question"], train["answer"], seed)
    return _rows(rival.predict(list(questions)), began)


def nearest_answer(train, questions, seed):
    """The answer to the most similar question of `train` (DataFrame), as from `asking.answer`.

    seed: nothing is drawn; it is taken so that both rivals that learn are called alike.
    """
    began, known = time.monotonic(), train["question"].tolist()
    _, nearest = splits.Similarity(known).largest(list(questions), known)
    return _rows(train["answer"].iloc[nearest], began)


def _rows(texts, began):
    """`texts` in the form of `asking.answer`; each takes its share of the seconds since `began`."""
    seconds = (time.monotonic() - began) / len(texts)
    return [
        {"text": str(text).strip(), "stopped": True, "confidence": None, "seconds": seconds}
        for text in texts
    ]


def linear_rival(questions, answers, seed):
    """TF-IDF and logistic regression, fitted on training rows (two sequences of str).

    Words and pairs of words count; in texts without words of their own (scripts without blanks,
    signs) characters do. The strength of regularisation is chosen by cross-validation, whose folds
    `seed` decides. Returns a fitted scikit-learn estimator with `predict`.
    """
    questions, answers = list(questions), list(answers)
    pipeline = make_pipeline(_vectorizer(questions), LogisticRegression(max_iter=3000))
    counts = collections.Counter(answers)
    # Classes with a single row cannot be on both sides of a fold: they sit out the choice, not the
    # fit.
    common = [index for index, answer in enumerate(answers) if counts[answer] > 1]
    sizes = [count for count in counts.values() if count > 1]
    if len(sizes) > 1:
        folds = StratifiedKFold(min(5, *sizes), shuffle=True, random_state=seed)
        strengths = {"logisticregression__C": [1, 10, 100]}
        search = GridSearchCV(pipeline, strengths, cv=folds, refit=False)
        search.fit([questions[i] for i in common], [answers[i] for i in common])
        pipeline.set_params(**search.best_params_)
    return pipeline.fit(questions, answers)


def _vectorizer(questions):
    """An unfitted TfidfVectorizer for these questions: of words where they have some."""
    separated = sum(len(words(text)) > 1 for text in questions)
    unit = {"analyzer": "char"}
    if separated > len(questions) / 2:
        unit = {"token_pattern": r"\w+"}
    return TfidfVectorizer(**unit, ngram_range=(1, 2), sublinear_tf=True)


def best_constant(answers, score, seed, count=200):
    """The one answer (str) that, always given, would score best on training answers.

    answers: list of str; score: function of (given, right); None for labels, of which the most
    frequent is taken. JSON objects are put together from the most frequent value of each field; of
    other texts, the `count` most frequent are tried on `count` drawn with `seed`.
    """
    frequent = [answer for answer, _ in collections.Counter(answers).most_common(count)]
    if score is None:
        return frequent[0]
    objects = [parsed(text) for text in answers]
    if None not in objects:
        return _most_frequent_fields(objects)
    drawn = [answers[i] for i in np.random.default_rng(seed).permutation(len(answers))[:count]]
    return max(frequent, key=lambda given: sum(score(given, right) for right in drawn))


def _most_frequent_fields(objects):
    """A JSON object (str) with the most frequent value of each field of `objects` (dicts)."""
    values = collections.defaultdict(collections.Counter)
    for found in objects:
        for name, value in found.items():
            values[name][json.dumps(value)] += 1
    chosen = {name: json.loads(seen.most_common(1)[0][0]) for name, seen in values.items()}
    return json.dumps(chosen, ensure_ascii=False)
