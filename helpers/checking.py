"""What the exercises' checks share: hints instead of tracebacks, and the results of your run."""

import math

from helpers.records import folders, manifests


class NotYet(AssertionError):
    """An answer is missing or wrong; a notebook shows its sentence alone, without a traceback."""

    def _render_traceback_(self):
        return [f"Not yet: {self}"]


def expect(condition, hint):
    """Raise NotYet with `hint` (str), which must not give the answer away, unless `condition`."""
    if not condition:
        raise NotYet(hint)


def given(**answers):
    """Raise NotYet for the first answer, or part of a list, tuple or dict, that is still `...`."""
    for name, answer in answers.items():
        if isinstance(answer, dict):
            parts = answer.values()
        elif isinstance(answer, (list, tuple)):
            parts = answer
        else:
            parts = [answer]
        expect(all(part is not ... for part in parts), f"give {name} a value.")


def number(name, answer):
    """`answer`, called `name` in the notebook, as a float. Raises NotYet for no single number."""
    try:
        expect(
            not isinstance(answer, (bool, str)) and math.isfinite(answer),
            f"{name} should be a number, not {answer!r}.",
        )
        return float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{name} should be one number, not a {type(answer).__name__}.") from None


def results(notebook):
    """Folder (Path) of what `notebook`, such as "01_data", wrote in the run directory.

    Raises NotYet, which says what to run, if it has written nothing.
    """
    run_dir = folders.run_directory()
    try:
        manifests.read_manifest(run_dir, notebook)
    except folders.ArtefactError as problem:
        hint = f"`python -m course catch-up {notebook[:2]}` fills in what comes before it."
        raise NotYet(f"{problem} ({hint})") from None
    return run_dir / notebook
