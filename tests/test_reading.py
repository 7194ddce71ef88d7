"""The lessons as something to read: links, objectives, minutes, questions, glossary; and the instructors' figures."""

import re

import nbformat
import pytest

from helpers import artefacts, params

FOLDER = artefacts.REPOSITORY / "notebooks"
GLOSSARY = FOLDER / "GLOSSARY.md"
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
NOT_PROSE = (r"```.*?```", r"`[^`]*`", r"\$[^$]*\$", r"^#.*$", r"^\[!\[.*$")  # code, formulas, headings, the badge


def markdown(name):
    """The Markdown cells of a lesson, in order (list of str)."""
    return [cell.source for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if cell.cell_type == "markdown"]


def terms():
    """{anchor: names} of the glossary: what stands in bold before the colon."""
    entries = re.findall(r'^<a id="([^"]+)"></a>((?:\*\*[^*]+\*\*(?:, )?)+): ', GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    return {anchor: re.findall(r"\*\*([^*]+)\*\*", bold) for anchor, bold in entries}


def pattern(name):
    """How `name` may stand in a text: with a plural s, a hyphen for a blank, and in any case unless it has capitals."""
    words = r"[\s-]+".join(map(re.escape, name.split()))
    return rf"(?{'i' if name.islower() else ''}:{words}(?:e?s)?)"


def first_uses(text):
    """{anchor: (start, end, target of the link around it or None)}: where prose first uses each term, longest name first.

    In the text of a link to something else a term does not count.
    """
    names = sorted(((name, anchor) for anchor, names in terms().items() for name in names), key=lambda pair: -len(pair[0]))
    any_term = re.compile(r"(?<!\w)(?:" + "|".join(f"({pattern(name)})" for name, _ in names) + r")(?!\w)")
    links = [(*found.span(1), found.group(2)) for found in LINK.finditer(text)]
    prose = text
    for hidden in (*NOT_PROSE, r"(?<=\])\([^()\s]+\)"):
        prose = re.sub(hidden, lambda found: re.sub(r"\S", " ", found.group()), prose, flags=re.MULTILINE | re.DOTALL if "```" in hidden else re.MULTILINE)
    found = {}
    for use in any_term.finditer(prose):
        target = next((where for start, end, where in links if start <= use.start() < end), None)
        if target is None or target.startswith("GLOSSARY.md#"):
            found.setdefault(names[use.lastindex - 1][1], (*use.span(), target))
    return found


@pytest.mark.parametrize("name", params.NOTEBOOKS)
def test_terms_are_linked_where_they_first_appear(name):
    text = "\n\n".join(markdown(name))
    uses = first_uses(text)
    unlinked = [text[start:end] for anchor, (start, end, target) in uses.items() if target != f"GLOSSARY.md#{anchor}"]
    assert not unlinked
    linked = re.findall(r"\(GLOSSARY\.md#([^)]+)\)", text)
    assert sorted(linked) == sorted(uses), "linked more than once, or not a use of the term"
