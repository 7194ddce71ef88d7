"""Splits that cannot leak: near duplicates stay on one side, class shares are kept."""

import math
import unicodedata

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, vstack
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

from helpers.records import files

ALL_PAIRS = 2_000_000_000  # multiplications: up to so many, all pairs are compared (seconds)
MISSED = 1e-5  # beyond, the largest probability with which a pair at the threshold may go unseen
HASHES = 3  # of MinHash that must agree for a pair to be compared
MOST_HASHES = 1500  # so thresholds below about 0.55 are not held to MISSED
WINDOW = 32  # when more texts agree, each is compared with so many of them
FEATURES = 2**20
PUNCTUATION = str.maketrans(
    "", "", "!\"#%&'()*,-./:;?@[\\]_{}–—‘’“”„«»¿¡、。"
)  # an unpunctuated copy is a copy
ROUNDING = 1e-5  # of float32 cosines


class Similarity:
    """Cosine of IDF vectors over the sets of character 4-grams within words: 0 nothing in common, 1 the same.

    Rare n-grams weigh more, so wording that all rows share (an instruction, a signature) does not make
    them duplicates. The weights come from `texts`; n-grams are hashed, so memory does not grow with them.
    Attributes: `weights` (array, one per hashed n-gram), `work` (multiplications it takes to compare all pairs of `texts`).
    """

    def __init__(self, texts):
        self._sets = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(4, 4),
            n_features=FEATURES,
            alternate_sign=False,
            norm=None,
            binary=True,
        )
        documents = np.zeros(FEATURES)
        for part in _chunks(texts):
            documents += np.bincount(self.ngrams(part).indices, minlength=FEATURES)
        self.work = float(documents @ documents)
        self.weights = (np.log((1 + len(texts)) / (1 + documents)) + 1).astype(np.float32)

    def vectors(self, texts):
        """Sparse matrix, one unit row per text."""
        ngrams = self.ngrams(texts).astype(np.float32)
        ngrams.data = self.weights[ngrams.indices]
        return normalize(ngrams, copy=False)

    def ngrams(self, texts):
        """Sparse matrix of hashed n-grams, one row per text: 1 where it has one."""
        return self._sets.transform(map(_folded, texts))

    def largest(self, texts, others):
        """Largest similarity of each of `texts` to any of `others`. Returns (similarities, positions), arrays."""
        vectors = self.vectors(texts)
        best, where = np.full(len(texts), -1, dtype=np.float32), np.zeros(len(texts), dtype=int)
        start = 0
        for part in _chunks(
            others, count=max(1, 10_000_000 // max(len(texts), 1))
        ):  # at most 160 MB of scores at a time
            scores = (vectors @ self.vectors(part).T.tocsr()).toarray()
            found = scores.argmax(axis=1)
            higher = scores[np.arange(len(texts)), found]
            where = np.where(higher > best, found + start, where)
            best = np.maximum(best, higher)
            start += len(part)
        return best, where


def near_duplicate_groups(texts, threshold, similarity=None):
    """Group numbers (array of int, one per text): texts linked by similarity ≥ `threshold` share one.

    texts: list of str; threshold: 0–1. Texts that differ only in case, punctuation, blanks or
    Unicode form always do. All pairs are
    compared when that takes at most ALL_PAIRS multiplications; else those that MinHash proposes, see `found_share`.
    The groups depend on the texts alone, not on their order or on a seed.
    """
    similarity = similarity or Similarity(texts)
    first = {}
    number = [first.setdefault(_folded(text), len(first)) for text in texts]
    find = _compared if similarity.work <= ALL_PAIRS else _proposed
    return find(list(first), threshold, similarity)[number]


def found_share(similarity, threshold):
    """Probability, at least, with which `near_duplicate_groups` compares two texts of similarity `threshold` (0–1).

    1 when it compares all pairs. Else 1 - (1 - s^HASHES)^bands (banded MinHash: Leskovec, Rajaraman and Ullman, Mining
    of Massive Datasets, 3.4), where s ≥ threshold² is the share of weight that the two have in common: with S in common
    of weights a ≤ b, threshold ≤ S / √(ab) and S ≤ a, hence S / (a + b - S) ≥ threshold². Of more than WINDOW + 1 texts
    that agree, not all are compared; this bound leaves that out, `similarity.largest` on a sample does not.
    """
    return (
        1.0
        if similarity.work <= ALL_PAIRS
        else 1 - (1 - threshold ** (2 * HASHES)) ** _bands(threshold)
    )


def checkable(similarity, count):
    """How many of `count` texts can each be compared with all others in ALL_PAIRS multiplications; at least 100."""
    return min(count, max(100, int(ALL_PAIRS / max(similarity.work, 1) * count)))


def split(rows, groups, label_set, validation_fraction, test_fraction, seed):
    """Part of each row: "train", "validation" or "test" (Series of str, index of `rows`).

    Whole groups are dealt out; with a label set, class shares are kept (a group counts with its most frequent
    answer). The seed alone decides, not the order of the rows. Raises ValueError when a part would be empty.
    """
    hashes = [files.text_hash(*pair) for pair in zip(rows["question"], rows["answer"], strict=True)]
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
    for_test, for_validation = (
        fraction * len(rows) / max(left, 1) for fraction in (test_fraction, validation_fraction)
    )
    if len(small) * (1 - for_test - for_validation) < 2:
        raise ValueError(
            f"{len(rows)} rows, of which {len(ids)} are not near duplicates of others (largest group: {sizes.max()} rows), "
            f"are too few for validation_fraction {validation_fraction} and test_fraction {test_fraction}: "
            "lower them or add rows."
        )
    rest, test = deal(small, for_test)
    train, validation = deal(rest, for_validation / (1 - for_test))
    part = {
        **dict.fromkeys([*train, *large], "train"),
        **dict.fromkeys(validation, "validation"),
        **dict.fromkeys(test, "test"),
    }
    parts = pd.Series([part[group] for group in groups], index=rows.index)
    if label_set and rows.loc[parts == "train", "answer"].str.strip().nunique() < 2:
        only = rows["answer"][parts == "train"].iloc[0]
        raise ValueError(f"Only the answer {only!r} is left to train on: add rows of the others.")
    return parts


def _folded(text):
    """The text as it is compared: one Unicode form, without case and (unless nothing else is there) punctuation, single blanks."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.translate(PUNCTUATION).split()) or " ".join(plain.split())


def _chunks(texts, characters=2_000_000, count=20_000):
    """Lists of `texts`, in order, each of at most so many texts and (unless it is one) so many characters."""
    part, size = [], 0
    for text in texts:
        if part and (size + len(text) > characters or len(part) == count):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def _linked(group, left, right):
    """Group numbers after the groups of `left` and `right` (arrays of positions) were joined, pair by pair."""
    count = group.max() + 1
    links = coo_matrix(
        (np.ones(len(left), dtype=bool), (group[left], group[right])), shape=(count, count)
    )
    return connected_components(links, directed=False)[1][group]


def _compared(texts, threshold, similarity, block=500):
    """Group numbers, from the similarity of all pairs."""
    vectors = similarity.vectors(texts)
    transposed = vectors.T.tocsr()
    left, right = [], []
    for start in range(0, len(texts), block):
        near = (vectors[start : start + block] @ transposed).tocoo()
        alike = near.data >= threshold - ROUNDING
        left.append(near.row[alike] + start)
        right.append(near.col[alike])
    return _linked(np.arange(len(texts)), np.concatenate(left), np.concatenate(right))


def _bands(threshold):
    """How many bands of MinHash let a pair at the threshold go unseen with probability MISSED at most."""
    agree = min(threshold ** (2 * HASHES), 1 - 1e-9)
    return int(np.clip(np.ceil(np.log(MISSED) / np.log1p(-agree)), 1, MOST_HASHES // HASHES))


def _signatures(texts, bands, similarity):
    """MinHash of every text: array of uint8 (texts, bands * HASHES), of each hash 8 bits.

    Of exponential draws whose rates are the n-grams' weights, each is the smallest with a probability proportional to
    its weight (Cohen 1997); so two texts share the smallest with that of the weight they have in common.
    """
    generator = np.random.default_rng(0)  # fixed: the grouping depends on the texts alone
    factors = generator.integers(2**31, size=bands * HASHES, dtype=np.uint32) * np.uint32(
        2
    ) + np.uint32(1)
    scrambled = generator.integers(2**32, size=FEATURES, dtype=np.uint32)
    means = 1 / similarity.weights**2
    signatures, row = np.empty((len(texts), len(factors)), dtype=np.uint8), 0
    for part in _chunks(texts, 100_000):  # small, so that the numbers stay in the processor's cache
        ngrams = similarity.ngrams(part)
        # A last one, for the text that has none.
        numbers, scale = (
            np.append(table[ngrams.indices], table[:1]) for table in (scrambled, means)
        )
        for column, factor in enumerate(factors):
            # Multiplication modulo 2^32: a cheap family of hash functions (Dietzfelbinger 1997), read as 0 to 1.
            draws = (
                np.log(
                    (numbers * factor).astype(np.float32) * np.float32(2**-32) + np.float32(1e-12)
                )
                * scale
            )
            least = np.maximum.reduceat(draws, ngrams.indptr[:-1])
            signatures[row : row + len(part), column] = least.view(np.uint32) & 255
        row += len(part)
    return signatures


def _proposed(texts, threshold, similarity):
    """Group numbers, from the similarity of the pairs that agree in all hashes of some band and are not linked already."""
    signatures = _signatures(texts, _bands(threshold), similarity)
    ties = np.array([int(files.text_hash(text)[:16], 16) for text in texts], dtype=np.uint64)
    group = np.arange(len(texts))
    for band in range(0, signatures.shape[1], HASHES):
        key = np.zeros(len(texts), dtype=np.uint64)
        for column in range(band, band + HASHES):
            key = key << np.uint64(8) | signatures[:, column]
        # Those that agree stand together, in an order that comes from the texts and differs from band to band.
        tie = ties * np.uint64(0x9E3779B97F4A7C15 + 2 * band) >> np.uint64(8 * HASHES)
        order = np.argsort(key << np.uint64(64 - 8 * HASHES) | tie)
        key = key[order]
        for distances in (
            range(1, 2),
            range(2, WINDOW + 1),
        ):  # neighbours first: most dense groups are whole after them
            left, right = _agreeing(key, order, group, distances)
            alike = _alike(texts, left, right, signatures, threshold, similarity)
            group = _linked(group, left[alike], right[alike])
    return group


def _agreeing(key, order, group, distances):
    """Pairs (left, right), arrays of positions, of equal `key` at such distances in `order` that `group` does not link."""
    pairs = [np.zeros((0, 2), dtype=int)]
    for distance in distances:
        place = np.flatnonzero(key[distance:] == key[:-distance])
        if not len(place):
            break
        apart = group[order[place]] != group[order[place + distance]]
        pairs.append(np.stack([place[apart], place[apart] + distance], axis=1))
    pairs = np.concatenate(pairs)
    pairs = pairs[
        np.argsort(pairs[:, 0], kind="stable")
    ]  # so that pairs of the same text are compared together
    return order[pairs[:, 0]], order[pairs[:, 1]]


def _alike(texts, left, right, signatures, threshold, similarity, block=20_000):
    """Which of the pairs (left, right) have at least `threshold` similarity, array of bool."""
    alike = np.zeros(len(left), dtype=bool)
    # A pair at the threshold agrees in threshold² of its hashes; with five standard deviations less, it is none.
    share, hashes = threshold**2, signatures.shape[1]
    enough = share * hashes - 5 * np.sqrt(share * (1 - share) * hashes)
    for start in range(0, len(left), block):
        a, b = left[start : start + block], right[start : start + block]
        hopeful = np.flatnonzero((signatures[a] == signatures[b]).sum(axis=1) >= enough)
        if len(hopeful):
            needed, at = np.unique(np.stack([a[hopeful], b[hopeful]]), return_inverse=True)
            vectors = vstack(
                [similarity.vectors(part) for part in _chunks([texts[i] for i in needed])]
            )
            cosines = vectors[at[0]].multiply(vectors[at[1]]).sum(axis=1)
            alike[start + hopeful] = np.asarray(cosines).ravel() >= threshold - ROUNDING
    return alike
