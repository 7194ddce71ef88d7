"""Simpler rivals of a language model, fitted on the training rows."""

import collections
import json

import numpy as np

from helpers.evaluate.scoring import parsed, words


def linear_rival(questions, answers, seed):
    """TF-IDF and logistic regression, fitted on training rows; the strength of regularisation by cross-validation.

    Words and pairs of words count; in texts without words of their own (scripts without blanks, signs) characters do.
    Returns a fitted scikit-learn estimator with `predict`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    questions = list(questions)
    separated = sum(len(words(text)) > 1 for text in questions) > len(questions) / 2
    unit = {"token_pattern": r"\w+"} if separated else {"analyzer": "char"}
    vectorizer = TfidfVectorizer(**unit, ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=3000))
    answers = list(answers)
    counts = collections.Counter(answers)
    # Classes with a single row cannot be on both sides of a fold: they sit out the choice, not the fit.
    common = [i for i, answer in enumerate(answers) if counts[answer] > 1]
    if len({answers[i] for i in common}) < 2:
        return pipeline.fit(questions, answers)
    folds = StratifiedKFold(
        min(5, *(count for count in counts.values() if count > 1)), shuffle=True, random_state=seed
    )
    search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=folds, refit=False)
    search.fit([questions[i] for i in common], [answers[i] for i in common])
    return pipeline.set_params(**search.best_params_).fit(questions, answers)


def best_constant(answers, score, seed, count=200):
    """The one answer (str) that, always given, would score best on `answers` (training answers, list of str).

    score: function of (given, right); None for labels, of which the most frequent is taken. JSON objects are put
    together from the most frequent value of each field; of other texts, at most `count` are tried on `count`.
    """
    frequent = [answer for answer, _ in collections.Counter(answers).most_common(count)]
    if score is None:
        return frequent[0]
    objects = [parsed(text) for text in answers]
    if all(value is not None for value in objects):
        names = dict.fromkeys(name for value in objects for name in value)
        values = {
            name: collections.Counter(json.dumps(o[name]) for o in objects if name in o)
            for name in names
        }
        return json.dumps(
            {name: json.loads(seen.most_common(1)[0][0]) for name, seen in values.items()},
            ensure_ascii=False,
        )
    drawn = [answers[i] for i in np.random.default_rng(seed).permutation(len(answers))[:count]]
    return max(frequent, key=lambda given: sum(score(given, right) for right in drawn))
