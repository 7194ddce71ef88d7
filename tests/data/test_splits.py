"""Splits: near duplicates stay together, class shares are kept, the seed alone decides."""

import random

import numpy as np
import pandas as pd
import pytest

from helpers.data import splits

WORDS = (
    "river",
    "bread",
    "window",
    "garden",
    "seven",
    "letter",
    "yellow",
    "engine",
    "music",
    "winter",
    "doctor",
    "silver",
)


def planted(count, seed=0):
    """`count` different texts, and near copies (a typo, other case, a mark) of every fifth.

    Returns (texts, positions of their originals), lists of equal length.
    """
    generator = random.Random(seed)
    texts = [
        " ".join(generator.choices(WORDS, k=9)) + f" {generator.randrange(10**6)}"
        for _ in range(count)
    ]
    originals = list(range(count))
    for i in range(0, count, 5):
        words = texts[i].split()
        words[generator.randrange(9)] += "s"
        texts += [" ".join(words), texts[i].upper(), texts[i] + "!"]
        originals += [i, i, i]
    return texts, originals


@pytest.mark.parametrize("all_pairs", [10**12, 0])
def test_planted_copies_share_a_group(monkeypatch, all_pairs):
    """Both ways of finding pairs: all of them, and those that MinHash proposes."""
    monkeypatch.setattr(splits, "ALL_PAIRS", all_pairs)
    texts, originals = planted(300)
    groups = splits.near_duplicate_groups(texts, 0.6)
    assert [texts[i] for i, original in enumerate(originals) if groups[i] != groups[original]] == []
    assert len(set(groups)) > 250  # and what differs is not thrown together


def test_minhash_gives_the_groups_of_all_pairs_in_any_order(monkeypatch):
    """Also where more texts agree in some hashes than are compared, as half of each is shared."""
    generator = random.Random(1)
    words = ["".join(generator.choices("etaoinshrdlu", k=7)) for _ in range(400)]
    texts = [
        " ".join(words[:10] + generator.choices(words, k=generator.randint(6, 14)))
        for _ in range(300)
    ] + planted(100)[0]
    similarity = splits.Similarity(texts)
    for threshold in (0.6, 0.8):
        monkeypatch.setattr(splits, "ALL_PAIRS", 10**12)
        exact = splits.near_duplicate_groups(texts, threshold, similarity)
        monkeypatch.setattr(splits, "ALL_PAIRS", 0)
        proposed = splits.near_duplicate_groups(texts, threshold, similarity)
        shuffled = generator.sample(range(len(texts)), len(texts))
        again = splits.near_duplicate_groups([texts[i] for i in shuffled], threshold, similarity)
        assert len(set(exact)) == len(set(zip(exact, proposed, strict=True))) == len(set(proposed))
        assert len(set(zip(again, proposed[shuffled], strict=True))) == len(set(proposed))


def test_what_may_go_unseen_is_stated(monkeypatch):
    """No pair of weights a ≤ b with S in common has less of it than the bound says.

    And where not all rows can be checked, it is as few as promised.
    """
    similarity = splits.Similarity(planted(300)[0])
    assert splits.found_share(similarity, 0.7) == 1 and splits.checkable(similarity, 99) == 99
    monkeypatch.setattr(splits, "ALL_PAIRS", similarity.work / 3)
    assert (
        1 - splits.MISSED <= splits.found_share(similarity, 0.7) < 1
        and splits.checkable(similarity, 600) == 200
    )
    assert splits.found_share(similarity, 0.3) < 0.5  # said, not hidden
    a, b = np.meshgrid(np.linspace(0.1, 1, 50), np.linspace(0.1, 1, 50))
    common = 0.7 * np.sqrt(a * b)
    possible = common <= np.minimum(a, b)
    assert (common / (a + b - common))[possible].min() >= 0.7**2


def test_no_near_duplicate_crosses_in_a_file_too_large_for_all_pairs(monkeypatch):
    """22,000 rows and 2,200 near copies of them, none of which may be on the other side."""
    generator = random.Random(0)
    words = [
        "".join(generator.choices("etaoinshrdlucm", k=generator.randint(3, 9))) for _ in range(2000)
    ]
    texts = [" ".join(generator.choices(words, k=12)) for _ in range(22_000)]
    for i in range(2200):
        changed = texts[i].split()
        changed[generator.randrange(12)] = generator.choice(words)
        texts.append(" ".join(changed))
    monkeypatch.setattr(splits, "ALL_PAIRS", 10**8)  # as longer texts would need more
    similarity = splits.Similarity(texts)
    assert splits.found_share(similarity, 0.7) < 1
    groups = splits.near_duplicate_groups(texts, 0.7, similarity)
    pairs = (
        similarity.vectors(texts[:2200]).multiply(similarity.vectors(texts[22_000:])).sum(axis=1)
    )
    near = np.flatnonzero(np.asarray(pairs).ravel() >= 0.7)
    assert len(near) > 1500
    rows = pd.DataFrame({"question": texts, "answer": "free"})
    for seed in (1, 2):
        parts = splits.split(rows, groups, None, 0.1, 0.3, seed).to_numpy()
        assert (parts[near] == parts[22_000 + near]).all() and set(parts[near]) == {
            "train",
            "validation",
            "test",
        }


def test_no_group_is_torn_and_shares_are_kept():
    texts, _ = planted(300)
    rows = pd.DataFrame({"question": texts, "answer": [("a", "b", "b")[len(t) % 3] for t in texts]})
    groups = splits.near_duplicate_groups(texts, 0.6)
    parts = splits.split(rows, groups, ["a", "b"], 0.1, 0.3, seed=4)
    assert parts.groupby(groups).nunique().max() == 1
    assert (
        abs((parts == "test").mean() - 0.3) < 0.05
        and abs((parts == "validation").mean() - 0.1) < 0.04
    )
    share = (rows["answer"] == "a").groupby(parts).mean()
    assert share.max() - share.min() < 0.1
    assert parts.equals(splits.split(rows, groups, ["a", "b"], 0.1, 0.3, seed=4))
    assert not parts.equals(splits.split(rows, groups, ["a", "b"], 0.1, 0.3, seed=5))
    shuffled = rows.sample(frac=1, random_state=0)
    again = splits.split(
        shuffled,
        splits.near_duplicate_groups(shuffled["question"].tolist(), 0.6),
        ["a", "b"],
        0.1,
        0.3,
        4,
    )
    assert again.sort_index().equals(parts)


def test_rare_classes_and_free_answers_can_be_split():
    rows = pd.DataFrame(
        {"question": [f"q{i}" for i in range(40)], "answer": ["x"] * 37 + ["y", "y", "z"]}
    )
    assert set(splits.split(rows, np.arange(40), ["x", "y", "z"], 0.1, 0.3, 1)) == {
        "train",
        "validation",
        "test",
    }
    assert set(splits.split(rows, np.arange(40), None, 0.1, 0.3, 1)) == {
        "train",
        "validation",
        "test",
    }


def test_too_few_groups_are_refused():
    rows = pd.DataFrame({"question": ["same"] * 50, "answer": ["a", "b"] * 25})
    with pytest.raises(ValueError, match="Only 1 rows"):
        splits.split(rows, np.zeros(50, int), ["a", "b"], 0.1, 0.3, 1)


def test_one_label_alone_cannot_be_trained_on():
    rows = pd.DataFrame({"question": [f"q{i}" for i in range(40)], "answer": ["a", "a "] * 20})
    with pytest.raises(ValueError, match="Only the answer 'a ?' is left to train on"):
        splits.split(rows, np.arange(40), ["a", "a "], 0.1, 0.3, 1)


def test_a_group_counts_with_its_most_frequent_answer():
    """Twenty groups of four rows, in which one answer of four is of the other label."""
    answers = ["a", "a", "b", "a"] * 10 + ["b", "a", "b", "b"] * 10
    rows = pd.DataFrame({"question": [f"q{i}" for i in range(80)], "answer": answers})
    groups = np.arange(80) // 4
    for seed in range(5):
        parts = splits.split(rows, groups, ["a", "b"], 0.1, 0.4, seed)
        tested = groups[parts == "test"]
        assert (tested < 10).sum() == (tested >= 10).sum() == 16


def test_largest_similarity_finds_the_copy():
    similarity = splits.Similarity(["the cat sat", "a dog ran off", "birds fly south"])
    best, where = similarity.largest(["A dog ran off"], ["the cat sat", "a dog ran off"])
    assert best[0] > 0.99 and where[0] == 1
    texts, _ = planted(200)
    best, where = splits.Similarity(texts).largest(texts[:50], texts[100:])
    vectors = splits.Similarity(texts).vectors(texts)
    scores = (vectors[:50] @ vectors[100:].T).toarray()
    assert np.allclose(best, scores.max(axis=1), atol=1e-5)
    assert np.allclose(scores[np.arange(50), where], scores.max(axis=1), atol=1e-5)


def test_what_differs_in_form_only_is_always_one_group():
    texts = ["Café au lait", "CAFE\u0301  AU LAIT", "tea", "coffee"]
    assert (
        splits.near_duplicate_groups(texts, 1.0)[0] == splits.near_duplicate_groups(texts, 1.0)[1]
    )
    texts = [
        "Ha! No hot water - since 3.15, 'they' said?",
        "ha no hot water  since 315 they said",
        "???",
        " ??? ",
        "!!!",
        "2 + 3",
    ]
    groups = splits.near_duplicate_groups(texts, 1.0)
    assert groups[0] == groups[1] and groups[2] == groups[3] and len(set(groups)) == 4


def test_a_large_group_trains_and_the_shares_stay():
    rows = pd.DataFrame({"question": [f"q{i}" for i in range(250)], "answer": ["a", "b"] * 125})
    groups = np.concatenate([np.zeros(100, int), np.arange(1, 151)])
    for seed in range(5):
        parts = splits.split(rows, groups, ["a", "b"], 0.1, 0.3, seed)
        assert abs((parts == "test").mean() - 0.3) < 0.03 and (parts[:100] == "train").all()
    with pytest.raises(ValueError, match="largest group: 200 rows"):
        splits.split(
            rows, np.concatenate([np.zeros(200, int), np.arange(1, 51)]), ["a", "b"], 0.1, 0.3, 1
        )


def test_a_stray_class_does_not_switch_stratification_off():
    rows = pd.DataFrame(
        {"question": [f"q{i}" for i in range(301)], "answer": ["A"] * 285 + ["B"] * 15 + ["C"]}
    )
    for seed in range(10):
        parts = splits.split(rows, np.arange(301), ["A", "B", "C"], 0.1, 0.3, seed)
        assert 4 <= ((parts == "test") & (rows["answer"] == "B")).sum() <= 5


def test_shared_wording_does_not_hide_copies(monkeypatch):
    monkeypatch.setattr(splits, "ALL_PAIRS", 0)
    texts, originals = planted(300)
    texts = [" ".join(f"instruction{i}" for i in range(40)) + " " + text for text in texts]
    groups = splits.near_duplicate_groups(texts, 0.7)
    assert (
        all(groups[i] == groups[original] for i, original in enumerate(originals))
        and len(set(groups)) > 250
    )


def parted(texts):
    """(rows with the last third as test part, their groups, their Similarity)."""
    parts = ["train"] * (2 * len(texts) // 3)
    parts += ["test"] * (len(texts) - len(parts))
    rows = pd.DataFrame({"question": texts, "part": parts})
    similarity = splits.Similarity(texts)
    return rows, splits.near_duplicate_groups(texts, 0.7, similarity), similarity


def test_a_separation_is_checked_without_the_groups():
    texts = planted(150)[0][:150]
    rows, groups, similarity = parted(texts)
    checked = splits.check_separation(rows, groups, similarity, 0.7, 1)
    assert checked.largest < 0.7 and "checked 50 of 50 test questions" in checked.report
    torn = texts[:-1] + [texts[0].upper()]
    rows, groups, similarity = parted(torn)
    with pytest.raises(AssertionError):  # its group lies in two parts
        splits.check_separation(rows, groups, similarity, 0.7, 1)
    with pytest.raises(AssertionError):  # and the texts are as similar, whatever the groups say
        splits.check_separation(rows, np.arange(len(torn)), similarity, 0.7, 1)


def test_a_separation_of_many_rows_is_checked_on_a_sample(monkeypatch):
    rows, groups, similarity = parted(planted(600)[0][:600])
    monkeypatch.setattr(splits, "ALL_PAIRS", 0)
    report = splits.check_separation(rows, groups, similarity, 0.7, 1).report
    assert "checked 100 of 200" in report and "at most 2.95% of all test questions" in report


def test_near_duplicates_in_one_line(monkeypatch):
    texts, _ = planted(10)
    similarity = splits.Similarity(texts)
    groups = splits.near_duplicate_groups(texts, 0.6, similarity)
    line = "rows that resemble another: 8 | largest group: 4"
    assert splits.about_groups(groups, similarity, 0.6) == line
    monkeypatch.setattr(splits, "ALL_PAIRS", 0)
    assert "is found with probability 0.9" in splits.about_groups(groups, similarity, 0.6)
