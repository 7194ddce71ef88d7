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
    """TF-IDF and logistic regression, fitted on training rows.

    Cross-validation chooses the strength of regularisation. Words and pairs of words count; in
    texts without words of their own (scripts without blanks, signs) characters do. Returns a fitted
    scikit-learn estimator with `predict`.
    """
    questions, answers = list(questions), list(answers)
    separated = sum(len(words(text)) > 1 for text in questions) > len(questions) / 2
    unit = {"token_pattern": r"\w+"} if separated else {"analyzer": "char"}
    vectorizer = TfidfVectorizer(**unit, ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=3000))
    counts = collections.Counter(answers)
    # A class with a single row cannot be on both sides of a fold: it has no part in the choice.
    common = [i for i, answer in enumerate(answers) if counts[answer] > 1]
    if len({answers[i] for i in common}) < 2:
        return pipeline.fit(questions, answers)
    smallest = min(count for count in counts.values() if count > 1)
    folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed)
    search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=folds, refit=False)
    search.fit([questions[i] for i in common], [answers[i] for i in common])
    return pipeline.set_params(**search.best_params_).fit(questions, answers)


def best_constant(answers, score, seed, count=200):
    """The one answer (str) that, always given, would score best on training `answers` (texts).

    score: function of (given, right); None for labels, of which the most frequent is taken. JSON
    objects are put together from the most frequent value of each field; of other texts, at most
    `count` are tried on `count`.
    """
    frequent = [answer for answer, _ in collections.Counter(answers).most_common(count)]
    if score is None:
        return frequent[0]
    objects = [parsed(text) for text in answers]
    if all(value is not None for value in objects):
        return _frequent_fields(objects)
    drawn = [answers[i] for i in np.random.default_rng(seed).permutation(len(answers))[:count]]
    return max(frequent, key=lambda given: sum(score(given, right) for right in drawn))


def _frequent_fields(objects):
    """A JSON object (str) of the most frequent value of each field of `objects` (dicts)."""
    seen = collections.defaultdict(collections.Counter)
    for value in objects:
        for name, field in value.items():
            seen[name][json.dumps(field)] += 1
    frequent = {name: json.loads(counts.most_common(1)[0][0]) for name, counts in seen.items()}
    return json.dumps(frequent, ensure_ascii=False)
