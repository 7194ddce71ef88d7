"""Splits that cannot leak: near duplicates stay on one side, class shares are kept."""

import math
import unicodedata

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

from helpers import artefacts

EXACT_UP_TO = 20_000  # texts; beyond, comparing all pairs would take time that grows with their square
BANDS, ROWS = 20, 3  # of MinHash: pairs that share 60 % of their n-grams are found with probability 0.99
FEATURES = 2**20
ROUNDING = 1e-5  # of float32 cosines


class Similarity:
    """Cosine of TF-IDF vectors over character 4-grams within words: 0 nothing in common, 1 the same.

    Rare n-grams weigh more, so wording that all rows share (an instruction, a signature) does not make
    them duplicates. The weights come from `texts`; n-grams are hashed, so memory does not grow with them.
    """

    def __init__(self, texts):
        self._counts = HashingVectorizer(
            analyzer="char_wb", ngram_range=(4, 4), n_features=FEATURES, alternate_sign=False, norm=None
        )
        documents = np.zeros(FEATURES)
        for part in _chunks(texts):
            documents += np.bincount(self.ngrams(part).indices, minlength=FEATURES)
        self._rare = documents <= max(10, len(texts) / 10)
        self._weights = (np.log((1 + len(texts)) / (1 + documents)) + 1).astype(np.float32)

    def vectors(self, texts):
        """Sparse matrix, one unit row per text."""
        counts = self.ngrams(texts).astype(np.float32)
        counts.data = (1 + np.log(counts.data)) * self._weights[counts.indices]
        return normalize(counts, copy=False)

    def ngrams(self, texts):
        """Sparse matrix of hashed n-grams, unweighted."""
        return self._counts.transform(map(_folded, texts))

    def rare_ngrams(self, texts):
        """(numbers, starts): hashed n-grams that less than a tenth of all texts have, row after row, and where each begins."""
        ngrams = self.ngrams(texts)
        rare = self._rare[ngrams.indices]
        starts = np.concatenate([[0], np.cumsum(rare)])[ngrams.indptr[:-1]]
        return ngrams.indices[rare].astype(np.uint64), starts

    def largest(self, texts, others):
        """Largest similarity of each of `texts` to any of `others`. Returns (similarities, positions), arrays."""
        vectors = self.vectors(texts)
        best, where = np.full(len(texts), -1, dtype=np.float32), np.zeros(len(texts), dtype=int)
        size = max(1, 50_000_000 // max(len(texts), 1))  # at most 200 MB of scores at a time
        for start in range(0, len(others), size):
            scores = (vectors @ self.vectors(others[start : start + size]).T.tocsr()).toarray()
            found = scores.argmax(axis=1)
            higher = scores[np.arange(len(texts)), found]
            where = np.where(higher > best, found + start, where)
            best = np.maximum(best, higher)
        return best, where


def near_duplicate_groups(texts, threshold, similarity=None):
    """Group numbers (array of int, one per text): texts linked by similarity ≥ `threshold` share one.

    texts: list of str; threshold: 0–1. Texts that differ only in case, blanks or Unicode form always do. All pairs are
    compared up to EXACT_UP_TO texts; beyond, MinHash (Broder 1997) with banding proposes pairs, and each is compared.
    """
    similarity = similarity or Similarity(texts)
    first = {}
    same = [first.setdefault(_folded(text), position) for position, text in enumerate(texts)]
    pairs = _all_pairs(texts, threshold, similarity) if len(texts) <= EXACT_UP_TO else _proposed(texts, threshold, similarity)
    left, right = np.concatenate([pairs[0], np.arange(len(texts))]), np.concatenate([pairs[1], same])
    links = coo_matrix((np.ones(len(left)), (left, right)), shape=(len(texts), len(texts)))
    return connected_components(links, directed=False)[1]


def split(rows, groups, label_set, validation_fraction, test_fraction, seed):
    """Part of each row: "train", "validation" or "test" (Series of str, index of `rows`).

    Whole groups are dealt out; with a label set, class shares are kept (a group counts with its most frequent
    answer). The seed alone decides, not the order of the rows. Raises ValueError when a part would be empty.
    """
    hashes = [artefacts.text_hash(*pair) for pair in zip(rows["question"], rows["answer"], strict=True)]
    frame = pd.DataFrame({"group": groups, "hash": hashes, "answer": rows["answer"].to_numpy()})
    # In the order of their texts' hashes, so that the order of the file does not matter.
    ids = frame.groupby("group")["hash"].min().sort_values().index.to_numpy()
    given = frame.groupby(["group", "answer"]).size().reset_index(name="count")
    given = given.sort_values(["count", "answer"], ascending=[False, True]).drop_duplicates("group")
    answers = given.set_index("group")["answer"].to_dict() if label_set else {}

    def deal(ids, share):
        """Split `ids` in two; classes too rare to stratify count with the largest one."""
        kinds = None
        if label_set:
            kinds = pd.Series([answers[i] for i in ids])
            counts = kinds.value_counts()
            size = math.ceil(share * len(ids))
            kinds = kinds.where(kinds.map(counts) >= 3, counts.index[0])
            if kinds.value_counts().min() < 2 or min(size, len(ids) - size) < kinds.nunique():
                kinds = None
        return train_test_split(ids, test_size=share, random_state=seed, stratify=kinds)

    if len(ids) < 10:
        raise ValueError(
            f"Only {len(ids)} rows that are not near duplicates of one another: too few to split, at least 10 are needed."
        )
    # A large group would carry its part far from its share: such groups are learned from.
    sizes = frame["group"].value_counts()
    limit = max(4, min(test_fraction, validation_fraction) * len(rows) / 10)
    large = ids[sizes[ids].to_numpy() > limit]
    small = ids[sizes[ids].to_numpy() <= limit]
    left = len(rows) - int(sizes[large].sum())
    for_test, for_validation = (fraction * len(rows) / max(left, 1) for fraction in (test_fraction, validation_fraction))
    if len(small) * (1 - for_test - for_validation) < 2:
        raise ValueError(
            f"{len(rows)} rows, of which {len(ids)} are not near duplicates of others (largest group: {sizes.max()} rows), "
            f"are too few for validation_fraction {validation_fraction} and test_fraction {test_fraction}: "
            "lower them or add rows."
        )
    rest, test = deal(small, for_test)
    train, validation = deal(rest, for_validation / (1 - for_test))
    part = {**dict.fromkeys([*train, *large], "train"), **dict.fromkeys(validation, "validation"), **dict.fromkeys(test, "test")}
    parts = pd.Series([part[group] for group in groups], index=rows.index)
    if label_set and rows.loc[parts == "train", "answer"].str.strip().nunique() < 2:
        only = rows["answer"][parts == "train"].iloc[0]
        raise ValueError(f"Only the answer {only!r} is left to train on: add rows of the others.")
    return parts


def _folded(text):
    """The text as it is compared: one Unicode form, without case, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _chunks(texts, size=20_000):
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _all_pairs(texts, threshold, similarity, block=500):
    vectors = similarity.vectors(texts)
    transposed = vectors.T.tocsr()
    left, right = [], []
    for start in range(0, len(texts), block):
        near = vectors[start : start + block] @ transposed
        near.data[near.data < threshold - ROUNDING] = 0
        near.eliminate_zeros()
        near = near.tocoo()
        left.append(near.row + start)
        right.append(near.col)
    return np.concatenate(left), np.concatenate(right)


def _signatures(texts, similarity):
    """MinHash signatures folded into one 64-bit key per band: array (texts, BANDS)."""
    generator = np.random.default_rng(0)  # fixed: the grouping depends on the texts alone
    factors = generator.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = []
    for part in _chunks(texts):
        numbers, starts = similarity.rare_ngrams(part)
        numbers = np.append(numbers, np.uint64(2**63)) + np.uint64(1)  # stands for the n-grams of a text that has none
        # Multiplication modulo 2^64, of which the upper half is kept: a cheap family of hash functions (Dietzfelbinger 1997).
        minima = np.stack([np.minimum.reduceat(numbers * factor >> np.uint64(32), starts) for factor in factors], axis=1)
        minima = minima.astype(np.uint64).reshape(len(part), BANDS, ROWS)
        key = np.zeros((len(part), BANDS), dtype=np.uint64)
        for row in range(ROWS):
            key = key * np.uint64(0x9E3779B97F4A7C15) + minima[:, :, row] + np.uint64(1)
        keys.append(key)
    return np.concatenate(keys)


def _proposed(texts, threshold, similarity):
    keys = _signatures(texts, similarity)
    count, pairs = len(texts), []
    for band in range(BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        same = keys[order[1:], band] == keys[order[:-1], band]
        # Neighbours in a bucket: a chain links all that are alike, and no bucket costs its square.
        pairs.append(order[:-1][same] * count + order[1:][same])
        # … and each with the first of its bucket, should a neighbour be there by chance.
        first = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, np.arange(len(order))))
        pairs.append(order[first[1:]][same] * count + order[1:][same])
    left, right = np.divmod(np.unique(np.concatenate(pairs)), count)
    keep = [np.zeros(0, dtype=bool)]
    for start in range(0, len(left), 20_000):
        a = similarity.vectors([texts[i] for i in left[start : start + 20_000]])
        b = similarity.vectors([texts[i] for i in right[start : start + 20_000]])
        keep.append(np.asarray(a.multiply(b).sum(axis=1)).ravel() >= threshold - ROUNDING)
    keep = np.concatenate(keep)
    return left[keep], right[keep]
