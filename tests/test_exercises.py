"""Exercises: learners' versions follow from the solutions, and checks tell right from wrong."""

from helpers import exercises


def test_learners_versions_are_in_step():
    assert exercises.out_of_step() == []
