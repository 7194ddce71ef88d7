"""What counts as right: for labels, for JSON objects and for other texts.

`choose` picks one of the three by the answers, so that 05 reads the same for all of them.
"""

import pandas as pd
from sklearn.metrics import classification_report

from helpers import plots
from helpers.data import chats
from helpers.evaluate import scoring, systems

BANDS = {"0": (0, 0), "up to half": (0, 0.5), "over half": (0.5, 1), "1": (1, 1)}


def choose(labels, answers):
    """The `Grading` that fits: `Labels` for labels (list of str), else by `answers` (texts)."""
    if labels:
        return Labels(labels)
    if all(scoring.parsed(text) is not None for text in answers):
        return Objects()
    return Texts()


def exact(given, right):
    """1.0 when two answers (str) are equal, else 0.0."""
    return float(given == right)


class Grading:
    """Scores of answers, and where they go wrong.

    scorers: {metric: function of (given, right) that returns 0–1}; decides: the metric on which the
    verdict rests; invalid: what an answer of the wrong form is called.
    """

    scorers = {"accuracy": exact}
    decides = "accuracy"
    invalid = "empty"
    deciding_score = None  # for `rivals.best_constant`, which needs none for labels

    def score(self, given, right):
        """{metric: list of scores}, one score for each pair of two lists of texts."""
        return {
            metric: [scorer(*pair) for pair in zip(given, right, strict=True)]
            for metric, scorer in self.scorers.items()
        }

    def valid(self, text):
        """True when an answer (str) has the right form, whatever it says."""
        return bool(text)

    def details(self, right, texts):
        """What metrics.json keeps beside the scores: `per_class` and `fields`, None if not meant.

        right: list of str; texts: {system: list of answers}.
        """
        return {"per_class": None, "fields": None}

    def table(self, right, texts):
        """Where the answers in `texts`, {system: list of str}, go wrong, as a DataFrame."""
        raise NotImplementedError

    def picture(self, right, given):
        """A figure of where one system's answers (list of str) go wrong, or None."""
        return None


class Labels(Grading):
    """One of a few labels, such as relevant and irrelevant."""

    invalid = "not a label"

    def __init__(self, labels):
        self.labels = labels

    def valid(self, text):
        return text in self.labels

    def details(self, right, texts):
        report = classification_report(
            right, texts["merged"], labels=self.labels, output_dict=True, zero_division=0
        )
        return {"per_class": report, "fields": None}

    def table(self, right, texts):
        """Precision, recall and F1 of the merged model for each label."""
        report = self.details(right, texts)["per_class"]
        rows = {chats.visible(label): report[label] for label in self.labels}
        return pd.DataFrame(rows).T.round(3).astype({"support": int})

    def picture(self, right, given):
        return plots.confusion(right, given, self.labels)


class Texts(Grading):
    """Free answers: also what is nearly right counts."""

    scorers = {
        "accuracy": exact,
        "token_f1": scoring.token_f1,
        "rouge_l": scoring.rouge_l,
    }
    decides = "token_f1"

    def deciding_score(self, given, right):
        """The score (0–1) on which the verdict rests, of one answer."""
        return self.scorers[self.decides](given, right)

    def table(self, right, texts):
        """How many answers of each system are all wrong, half right and all right."""
        rows = {}
        for system, given in texts.items():
            scores = self.score(given, right)[self.decides]
            rows[systems.name(system)] = {name: _count(scores, *BANDS[name]) for name in BANDS}
        return pd.DataFrame(rows).T


def _count(scores, low, high):
    """How many scores lie between two ends, neither included, or are equal to both."""
    if low == high:
        return sum(score == low for score in scores)
    return sum(low < score <= high and score < 1 for score in scores)


class Objects(Texts):
    """JSON objects: each field that is right counts."""

    scorers = Texts.scorers | {"field_accuracy": scoring.field_accuracy}
    decides = "field_accuracy"
    invalid = "not JSON"

    def valid(self, text):
        return scoring.parsed(text) is not None

    def details(self, right, texts):
        fields = {system: scoring.per_field(given, right) for system, given in texts.items()}
        return {"per_class": None, "fields": fields}

    def table(self, right, texts):
        """The share of rows in which a field has exactly the right value, system by system."""
        fields = self.details(right, texts)["fields"]
        return pd.DataFrame({systems.name(each): row for each, row in fields.items()}).T.round(3)
