"""The two data sets of the course keep what their card promises."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers.data import splits
from helpers.records import folders

FOLDER = folders.REPOSITORY / "data"
NAMED = re.compile(r"\b(?:water|tap|pressure|suppl)", re.IGNORECASE)
ITEMS = {
    "white loaf",
    "brown loaf",
    "rye loaf",
    "sourdough loaf",
    "baguette",
    "bread roll",
    "croissant",
    "scone",
    "muffin",
    "cheese twist",
    "fruit cake",
    "apple pie",
    "birthday cake",
    "sausage roll",
}
DAYS = {"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", None}


def table(name):
    return pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False)


@pytest.mark.parametrize("name, at_least", [("inbox.csv", 900), ("orders.csv", 400)])
def test_rows_are_many_different_and_short(name, at_least):
    rows = table(name)
    assert list(rows.columns) == ["id", "question", "answer"] and rows["id"].is_unique
    assert len(rows) >= at_least
    assert rows["question"].str.len().between(20, 500).all()
    assert (rows["question"] == rows["question"].str.strip()).all()
    assert splits.near_duplicate_groups(rows["question"].tolist(), 0.5).max() == len(rows) - 1


def test_inbox_is_balanced_and_hard_on_both_sides():
    rows = table("inbox.csv")
    assert rows["answer"].value_counts().to_dict() == {
        "relevant": len(rows) / 2,
        "irrelevant": len(rows) / 2,
    }
    names = rows["question"].str.contains(NAMED)
    assert (~names[rows["answer"] == "relevant"]).mean() > 0.5
    assert names[rows["answer"] == "irrelevant"].mean() > 0.25


def test_orders_follow_from_their_messages():
    rows = table("orders.csv")
    for question, answer in zip(rows["question"], rows["answer"].map(json.loads), strict=True):
        assert list(answer) == ["item", "quantity", "day", "handover", "name"]
        assert (
            answer["item"] in ITEMS
            and answer["day"] in DAYS
            and answer["handover"] in ("delivery", "collection", None)
        )
        assert isinstance(answer["quantity"], int) and 1 <= answer["quantity"] <= 60
        assert answer["name"] is None or answer["name"] in question
        # A weekday is only asked for where the message names one, be it as "Weds".
        assert answer["day"] is None or answer["day"][:3] in question.lower(), question


def test_the_card_has_the_counts():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    inbox, orders = table("inbox.csv"), table("orders.csv")
    names = inbox["question"].str.contains(NAMED)
    for count in (
        len(inbox),
        len(orders),
        (names & (inbox["answer"] == "irrelevant")).sum(),
        (~names & (inbox["answer"] == "relevant")).sum(),
    ):
        assert re.search(rf"\b{count}\b", card), count


def test_01_opens_with_rows_of_the_file_and_none_of_its_test_rows():
    """The table in its first cell, under the default seed."""
    opening = nbformat.read(folders.NOTEBOOKS / "01_data.ipynb", 4).cells[0].source
    shown = re.findall(r"^\| (.+) \| (relevant|irrelevant) \| (.*)\|$", opening, re.MULTILINE)
    rows = table("inbox.csv")
    rows["part"] = splits.split(
        rows, np.arange(len(rows)), ["irrelevant", "relevant"], 0.11, 0.33, 1
    )
    found = rows.set_index("question").loc[[text for text, _, _ in shown]]
    assert len(shown) == 5 and (found["part"] == "train").all()
    assert found["answer"].tolist() == [answer for _, answer, _ in shown]
    for text, answer, remark in shown:
        is_hard = bool(NAMED.search(text)) == (answer == "irrelevant")
        assert is_hard == ("**hard:**" in remark)
