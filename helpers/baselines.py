"""Simpler rivals of a language model, fitted on the training rows."""

import collections
import json

import numpy as np

from helpers.evaluation import parsed, words


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
    rarest = min(collections.Counter(answers).values())
    if rarest < 2:
        return pipeline.fit(questions, answers)
    folds = StratifiedKFold(min(5, rarest), shuffle=True, random_state=seed)
    return GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=folds).fit(questions, answers)


def best_constant(answers, score, seed, count=200):
    """The one answer (str) that, always given, would score best on `answers` (training answers, list of str).

    score: function of (given, right). JSON objects are put together from the most frequent value of each field;
    for others, at most `count` of the answers are tried on `count` of them.
    """
    objects = [parsed(text) for text in answers]
    if all(objects):
        values = {name: collections.Counter(json.dumps(o.get(name)) for o in objects) for name in objects[0]}
        return json.dumps({name: json.loads(seen.most_common(1)[0][0]) for name, seen in values.items()}, ensure_ascii=False)
    generator = np.random.default_rng(seed)
    tried = sorted(set(answers), key=collections.Counter(answers).get, reverse=True)[:count]
    drawn = [answers[i] for i in generator.permutation(len(answers))[:count]]
    return max(tried, key=lambda given: sum(score(given, right) for right in drawn))
