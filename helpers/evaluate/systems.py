"""The systems that 05 compares: what they are called where people read about them."""

NAMES = {  # in the order in which tables and plots show them
    "majority": "always the same answer",
    "tfidf_logreg": "word statistics",
    "nearest_answer": "most similar question",
    "base_zero_shot": "base (zero-shot)",
    "base_few_shot": "base (few-shot)",
    "base_label_scored": "base (likeliest label)",
    "adapter": "tuned (adapter)",
    "merged": "tuned (merged)",
}
TUNED = ("adapter", "merged")
SIMPLE = ("tfidf_logreg", "nearest_answer")


def name(system):
    """What people read for `system` (str), a key of metrics.json; an unknown one stays as it is."""
    return NAMES.get(system, system)


def in_order(found):
    """A dict {system: anything} in the order of NAMES, unknown systems last."""
    order = [*NAMES, *(system for system in found if system not in NAMES)]
    return {system: found[system] for system in order if system in found}
