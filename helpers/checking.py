"""What the exercises' checks share: hints instead of tracebacks, and the results of your own run."""

import math

from helpers.records import folders, manifests


class NotYet(AssertionError):
    """An answer is missing or wrong. In a notebook only its sentence is shown, without a traceback."""

    def _render_traceback_(self):
        return [f"Not yet: {self}"]


def expect(condition, hint):
    """Go on when `condition` holds; otherwise raise NotYet with `hint` (str), which must not give the answer away."""
    if not condition:
        raise NotYet(hint)


def given(**answers):
    """Raise NotYet for the first answer, or part of one (list, tuple, dict), that is still `...`."""
    for name, answer in answers.items():
        parts = (
            answer.values()
            if isinstance(answer, dict)
            else answer
            if isinstance(answer, (list, tuple))
            else [answer]
        )
        expect(all(part is not ... for part in parts), f"give {name} a value.")


def number(name, answer):
    """`answer` as a float. Raises NotYet when it is not one number."""
    try:
        expect(
            not isinstance(answer, (bool, str)) and math.isfinite(answer),
            f"{name} should be a number, not {answer!r}.",
        )
        return float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{name} should be one number, not a {type(answer).__name__}.") from None


def results(notebook):
    """Folder (Path) of what `notebook` wrote in the run directory. Raises NotYet, which says what to run, if there is nothing."""
    run_dir = folders.run_directory()
    try:
        manifests.read_manifest(run_dir, notebook)
    except folders.ArtefactError as problem:
        raise NotYet(
            f"{problem} (`python -m course catch-up {notebook[:2]}` fills in what comes before it.)"
        ) from None
    return run_dir / notebook
