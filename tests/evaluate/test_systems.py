"""The systems' names and their order."""

from helpers.evaluate import systems


def test_systems_have_names_for_people_and_keep_their_order():
    found = systems.in_order({"merged": 1, "a new one": 2, "majority": 3})
    assert list(found.items()) == [("majority", 3), ("merged", 1), ("a new one", 2)]
    assert systems.name("base_label_scored") == "base (likeliest label)"
    assert systems.name("a new one") == "a new one"
    assert len(set(systems.NAMES.values())) == len(systems.NAMES)
    assert {*systems.TUNED, *systems.SIMPLE} < set(systems.NAMES)
