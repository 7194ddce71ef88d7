"""Splits that cannot leak: near duplicates stay on one side, class shares are kept.

Near duplicates are found from all pairs while that takes seconds, else from those that a MinHash
proposes, of our own: its draws are weighted as the similarity is. The libraries' MinHash is not, so
for the same pairs of 100,000 rows rensa takes 5 times as long and 9 times the memory, datasketch 19
times and 24 times, and wording that all rows share has them propose every pair
(tests/benchmarks/NOTES.md).
"""

import math
import unicodedata
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, vstack
from scipy.sparse.csgraph import connected_components
from scipy.stats import beta
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import normalize

from helpers.data import chats
from helpers.records import files

FEATURES = 2**20  # different n-grams at most
ROUNDING = 1e-5  # of float32 cosines
ALL_PAIRS = 2_000_000_000  # multiplications: up to so many, all pairs are compared (seconds)

# Beyond, pairs that MinHash proposes.
MISSED = 1e-5  # the largest probability with which a pair at the threshold may go unseen
HASHES = 3  # hashes of a band, all of which must agree for a pair to be compared
HASH_BITS = 8  # kept of each hash
MOST_HASHES = 1500  # so thresholds below about 0.55 are not held to MISSED
WINDOW = 32  # when more texts agree, each is compared with so many of them

# An unpunctuated copy is a copy.
PUNCTUATION = str.maketrans("", "", "!\"#%&'()*,-./:;?@[\\]_{}–—‘’“”„«»¿¡、。")

FEWEST_GROUPS = 10  # that can be split


class Similarity:
    """Cosine of IDF vectors over sets of character 4-grams within words: 0 nothing, 1 all the same.

    Rare n-grams weigh more, so wording that all rows share (an instruction, a signature) does not
    make them duplicates. The weights come from `texts`; n-grams are hashed, so memory does not grow
    with them. Attributes: `weights` (array, one per hashed n-gram), `work` (multiplications it
    takes to compare all pairs of `texts`).
    """

    def __init__(self, texts):
        """texts: list of str."""
        self._sets = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(4, 4),
            n_features=FEATURES,
            alternate_sign=False,
            norm=None,
            binary=True,
        )
        documents = np.zeros(FEATURES)  # in how many texts an n-gram stands
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
        """Largest similarity of each of `texts` to any of `others` (lists of str).

        Returns (similarities, positions among `others`), arrays of float32 and int.
        """
        vectors = self.vectors(texts)
        best = np.full(len(texts), -1, dtype=np.float32)
        where = np.zeros(len(texts), dtype=int)
        at_once = max(1, 10_000_000 // max(len(texts), 1))  # at most 160 MB of scores at a time
        start = 0
        for part in _chunks(others, count=at_once):
            scores = (vectors @ self.vectors(part).T.tocsr()).toarray()
            position = scores.argmax(axis=1)
            score = scores[np.arange(len(texts)), position]
            where = np.where(score > best, position + start, where)
            best = np.maximum(best, score)
            start += len(part)
        return best, where


def near_duplicate_groups(texts, threshold, similarity=None):
    """Group numbers (array of int, one per text); texts linked by similarity share one.

    texts: list of str; threshold: the similarity that links, 0 to 1; similarity: a Similarity of
    `texts`, if there is one. Texts that differ only in case, punctuation, blanks or Unicode form
    are always linked. All pairs are compared when that takes at most ALL_PAIRS multiplications;
    else those that MinHash proposes, see `found_share`. The groups depend on the texts alone, not
    on their order or on a seed.
    """
    similarity = similarity or Similarity(texts)
    different, numbers = {}, []  # the texts as they are compared, and which of them each one is
    for text in texts:
        numbers.append(different.setdefault(_folded(text), len(different)))
    if similarity.work <= ALL_PAIRS:
        groups = _groups_of_all_pairs(list(different), threshold, similarity)
    else:
        groups = _groups_of_proposed_pairs(list(different), threshold, similarity)
    return groups[numbers]


def found_share(similarity, threshold):
    """Probability, at least, with which two texts of similarity `threshold` (0 to 1) are compared.

    1 when all pairs are. Else 1 - (1 - s^HASHES)^bands (banded MinHash: Leskovec, Rajaraman and
    Ullman, Mining of Massive Datasets, 3.4), where s ≥ threshold² is the share of weight that the
    two have in common: with S in common of weights a ≤ b, threshold ≤ S / √(ab) and S ≤ a, hence
    S / (a + b - S) ≥ threshold². Of more than WINDOW + 1 texts that agree, not all are compared;
    this bound leaves that out, `similarity.largest` on a sample does not.
    """
    if similarity.work <= ALL_PAIRS:
        return 1.0
    agree = threshold ** (2 * HASHES)
    return 1 - (1 - agree) ** _bands(threshold)


def about_groups(groups, similarity, threshold):
    """One line (str) on near duplicates; groups: as `near_duplicate_groups` returns them.

    Where not all pairs were compared, it says how surely one at `threshold` was found.
    """
    sizes = np.bincount(groups)
    alike = sizes[sizes > 1].sum()
    line = f"rows that resemble another: {alike} | largest group: {sizes.max()}"
    share = found_share(similarity, threshold)
    if share < 1:
        share = min(share, 0.99999)
        line += f" | a pair as similar as {threshold} is found with probability {share:.5f} or more"
    return line


class Separation(NamedTuple):
    """How far test questions are from all others.

    largest: the largest similarity found (float); report: what was checked, with the closest pair
    (str).
    """

    largest: float
    report: str


def check_separation(rows, groups, similarity, threshold, seed):
    """Check that every group lies in one part, and test questions against all others.

    rows: DataFrame with `question` and `part`; groups: of its rows. The comparison does not use the
    groups. Where that would take long, it takes test questions drawn with `seed`, and the report
    has what such a sample can prove of the rest: the one-sided 95 % bound of Clopper and Pearson.
    Returns a Separation.
    """
    assert rows["part"].groupby(groups).nunique().max() == 1
    test, others = rows[rows["part"] == "test"], rows[rows["part"] != "test"]
    drawn = test.sample(checkable(similarity, len(test)), random_state=seed).sort_index()
    nearest, where = similarity.largest(drawn["question"].tolist(), others["question"].tolist())
    worst, crossing = nearest.argmax(), int((nearest >= threshold).sum())
    pair = drawn["question"].iloc[worst], others["question"].iloc[where[worst]]
    report = (
        f"checked {len(drawn)} of {len(test)} test questions against all {len(others)} others: "
        f"largest similarity {nearest.max():.2f}, allowed: below {threshold}, reached by {crossing}"
        f"\n test: {chats.visible(pair[0][:90])}\nother: {chats.visible(pair[1][:90])}"
    )
    if len(drawn) < len(test):
        most = beta.ppf(0.95, crossing + 1, max(len(drawn) - crossing, 1))
        report += f"\nso, with 95 % confidence, at most {most:.2%} of all test questions reach it"
    else:
        assert nearest.max() < threshold + ROUNDING
    return Separation(float(nearest.max()), report)


def checkable(similarity, count):
    """How many of `count` texts can each be compared with all others; at least 100 or `count`.

    That is, in ALL_PAIRS multiplications.
    """
    return min(count, max(100, int(ALL_PAIRS / max(similarity.work, 1) * count)))


def split(rows, groups, label_set, validation_fraction, test_fraction, seed):
    """Part of each row: "train", "validation" or "test" (Series of str, index of `rows`).

    rows: DataFrame with `question` and `answer`; groups: as `near_duplicate_groups` returns them;
    label_set: as `tables.labels` returns it. Whole groups are dealt out; with a label set, class
    shares are kept (a group counts with its most frequent answer). The seed alone decides, not the
    order of the rows. Raises ValueError when a part would be empty.
    """
    ids = _ordered_groups(rows, groups)
    if len(ids) < FEWEST_GROUPS:
        raise ValueError(
            f"Only {len(ids)} rows that are not near duplicates of one another: too few to split, "
            f"at least {FEWEST_GROUPS} are needed."
        )
    # A group of more than a tenth of the smaller part would carry its part far from its share: such
    # groups are learned from.
    sizes = pd.Series(groups).value_counts()
    limit = max(4, min(test_fraction, validation_fraction) * len(rows) / 10)
    is_large = sizes[ids].to_numpy() > limit
    large, small = ids[is_large], ids[~is_large]
    left = max(len(rows) - int(sizes[large].sum()), 1)
    test_share = test_fraction * len(rows) / left
    validation_share = validation_fraction * len(rows) / left
    if len(small) * (1 - test_share - validation_share) < 2:
        raise ValueError(
            f"{len(rows)} rows, of which {len(ids)} are not near duplicates of others (largest "
            f"group: {sizes.max()} rows), are too few for validation_fraction "
            f"{validation_fraction} and test_fraction {test_fraction}: lower them or add rows."
        )
    labels = _group_labels(rows, groups) if label_set else None
    rest, test = _deal(small, test_share, labels, seed)
    train, validation = _deal(rest, validation_share / (1 - test_share), labels, seed)
    part = {
        **dict.fromkeys([*train, *large], "train"),
        **dict.fromkeys(validation, "validation"),
        **dict.fromkeys(test, "test"),
    }
    parts = pd.Series([part[group] for group in groups], index=rows.index)
    if label_set:
        _check_labels_to_train(rows["answer"][parts == "train"])
    return parts


def _ordered_groups(rows, groups):
    """The different groups (array), ordered by hashes of their texts, not by the file's order."""
    pairs = zip(rows["question"], rows["answer"], strict=True)
    hashes = pd.Series([files.text_hash(question, answer) for question, answer in pairs])
    return hashes.groupby(np.asarray(groups)).min().sort_values().index.to_numpy()


def _group_labels(rows, groups):
    """The most frequent answer of each group, of equals the first by the alphabet: a dict."""
    frame = pd.DataFrame({"group": groups, "answer": rows["answer"].to_numpy()})
    counts = frame.groupby(["group", "answer"]).size().reset_index(name="count")
    counts = counts.sort_values(["count", "answer"], ascending=[False, True])
    return counts.drop_duplicates("group").set_index("group")["answer"].to_dict()


def _deal(ids, share, labels, seed):
    """`ids` of groups (array) in two, the second with `share` (0 to 1) of them.

    labels: {id: answer} whose shares both keep, or None. Answers too rare to be in both count as
    the most frequent one; when there are more answers than groups to one side, none is kept.
    """
    kinds = None
    if labels:
        kinds = pd.Series([labels[group] for group in ids])
        counts = kinds.value_counts()
        kinds = kinds.where(kinds.map(counts) >= 3, counts.index[0])
        size = math.ceil(share * len(ids))
        too_many = min(size, len(ids) - size) < kinds.nunique()
        if too_many or kinds.value_counts().min() < 2:
            kinds = None
    return train_test_split(ids, test_size=share, random_state=seed, stratify=kinds)


def _check_labels_to_train(answers):
    """Raises ValueError unless there are two different ones among `answers` (Series of str)."""
    if answers.str.strip().nunique() < 2:
        raise ValueError(
            f"Only the answer {answers.iloc[0]!r} is left to train on: add rows of the others."
        )


def _folded(text):
    """The text as it is compared: one Unicode form, no case, no punctuation, single blanks.

    Of a text that is nothing but punctuation, that stays.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.translate(PUNCTUATION).split()) or " ".join(plain.split())


def _chunks(texts, characters=2_000_000, count=20_000):
    """Lists of `texts`, in order, each of at most `count` texts and `characters` characters.

    A text that is longer stands alone.
    """
    part, size = [], 0
    for text in texts:
        if part and (size + len(text) > characters or len(part) == count):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


def _linked(groups, left, right):
    """Group numbers after the groups of `left` and `right` (arrays of positions) were joined."""
    count = groups.max() + 1
    links = np.ones(len(left), dtype=bool)
    graph = coo_matrix((links, (groups[left], groups[right])), shape=(count, count))
    _, joined = connected_components(graph, directed=False)
    return joined[groups]


def _groups_of_all_pairs(texts, threshold, similarity, block=500):
    """Group numbers, from the similarity of all pairs; `block` texts at a time with all others."""
    vectors = similarity.vectors(texts)
    transposed = vectors.T.tocsr()
    left, right = [], []
    for start in range(0, len(texts), block):
        near = (vectors[start : start + block] @ transposed).tocoo()
        alike = near.data >= threshold - ROUNDING
        left.append(near.row[alike] + start)
        right.append(near.col[alike])
    return _linked(np.arange(len(texts)), np.concatenate(left), np.concatenate(right))


def _groups_of_proposed_pairs(texts, threshold, similarity):
    """Group numbers, from the similarity of pairs that agree in all hashes of some band.

    Pairs that are linked already are not compared.
    """
    signatures = _signatures(texts, _bands(threshold), similarity)
    ties = np.array([int(files.text_hash(text)[:16], 16) for text in texts], dtype=np.uint64)
    groups = np.arange(len(texts))
    for band in range(0, signatures.shape[1], HASHES):
        keys = _band_keys(signatures[:, band : band + HASHES])
        order = _order(keys, ties, band)
        keys = keys[order]
        # Direct neighbours first: most dense groups are whole after them.
        for distances in (range(1, 2), range(2, WINDOW + 1)):
            left, right = _agreeing(keys, order, groups, distances)
            alike = _alike(texts, left, right, signatures, threshold, similarity)
            groups = _linked(groups, left[alike], right[alike])
    return groups


def _bands(threshold):
    """How many bands let a pair at the threshold go unseen with probability MISSED at most."""
    agree = min(threshold ** (2 * HASHES), 1 - 1e-9)
    enough = np.ceil(np.log(MISSED) / np.log1p(-agree))
    return int(np.clip(enough, 1, MOST_HASHES // HASHES))


def _signatures(texts, bands, similarity):
    """MinHash of every text: array of uint8 (texts, bands * HASHES), of each hash HASH_BITS bits.

    Of exponential draws whose rates are the n-grams' weights, each is the smallest with a
    probability proportional to its weight (Cohen 1997); so two texts share the smallest with that
    of the weight they have in common.
    """
    generator = np.random.default_rng(0)  # fixed: the grouping depends on the texts alone
    odd = 2 * generator.integers(2**31, size=bands * HASHES, dtype=np.uint32) + np.uint32(1)
    scrambled = generator.integers(2**32, size=FEATURES, dtype=np.uint32)
    means = 1 / similarity.weights**2
    signatures, row = np.empty((len(texts), len(odd)), dtype=np.uint8), 0
    for part in _chunks(texts, 100_000):  # small, so that the numbers stay in the processor's cache
        ngrams = similarity.ngrams(part)
        present = np.append(ngrams.indices, 0)  # a last one, for a last text that has none
        numbers, scale = scrambled[present], means[present]
        for column, factor in enumerate(odd):
            # Multiplication modulo 2^32 is a cheap family of hash functions (Dietzfelbinger 1997).
            uniform = (numbers * factor).astype(np.float32) * np.float32(2**-32)
            draws = np.log(uniform + np.float32(1e-12)) * scale  # negative, so the largest counts
            least = np.maximum.reduceat(draws, ngrams.indptr[:-1])
            signatures[row : row + len(part), column] = _low_bits(least)
        row += len(part)
    return signatures


def _low_bits(draws):
    """The last HASH_BITS bits of float32 numbers: equal for equal ones, else as good as random."""
    return draws.view(np.uint32) & (2**HASH_BITS - 1)


def _band_keys(hashes):
    """The HASHES columns of a band in one number per text (array of uint64), in its upper bits."""
    keys = np.zeros(len(hashes), dtype=np.uint64)
    for column in hashes.T:
        keys = keys << np.uint64(HASH_BITS) | column
    return keys << np.uint64(64 - HASH_BITS * HASHES)


def _order(keys, ties, band):
    """Positions of the texts in an order in which those of equal `keys` stand together.

    Among these, the order comes from `ties`, hashes of the texts (arrays of uint64), and differs
    from band to band.
    """
    scrambled = ties * np.uint64(0x9E3779B97F4A7C15 + 2 * band)  # Fibonacci hashing (Knuth)
    return np.argsort(keys | scrambled >> np.uint64(HASH_BITS * HASHES))


def _agreeing(keys, order, groups, distances):
    """Pairs of texts with equal keys that stand so far apart and that `groups` does not link.

    keys: in the order of `order`, the texts' positions; distances: in that order, ascending.
    Returns (left, right), arrays of positions.
    """
    pairs = [np.zeros((0, 2), dtype=int)]
    for distance in distances:
        place = np.flatnonzero(keys[distance:] == keys[:-distance])
        if not len(place):
            break
        apart = place[groups[order[place]] != groups[order[place + distance]]]
        pairs.append(np.stack([apart, apart + distance], axis=1))
    pairs = np.concatenate(pairs)
    # So that pairs of the same text are compared together.
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return order[pairs[:, 0]], order[pairs[:, 1]]


def _alike(texts, left, right, signatures, threshold, similarity, block=20_000):
    """Which pairs have at least `threshold` similarity: array of bool.

    left, right: arrays of positions in `texts`, of which `block` pairs are compared at a time.
    """
    alike = np.zeros(len(left), dtype=bool)
    # A pair at the threshold agrees in threshold² of its hashes; with five standard deviations
    # less, it is none.
    share, hashes = threshold**2, signatures.shape[1]
    enough = share * hashes - 5 * np.sqrt(share * (1 - share) * hashes)
    for start in range(0, len(left), block):
        a, b = left[start : start + block], right[start : start + block]
        hopeful = np.flatnonzero((signatures[a] == signatures[b]).sum(axis=1) >= enough)
        if len(hopeful):
            cosines = _cosines(texts, a[hopeful], b[hopeful], similarity)
            alike[start + hopeful] = cosines >= threshold - ROUNDING
    return alike


def _cosines(texts, left, right, similarity):
    """Similarity of each pair of positions in `texts` (array of float32)."""
    needed, places = np.unique(np.stack([left, right]), return_inverse=True)
    parts = _chunks([texts[position] for position in needed])
    vectors = vstack([similarity.vectors(part) for part in parts])
    products = vectors[places[0]].multiply(vectors[places[1]])
    return np.asarray(products.sum(axis=1)).ravel()
