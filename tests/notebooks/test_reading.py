"""The lessons as something to read: links, objectives, questions, glossary, figures to expect."""

import functools
import re

import nbformat
import pytest

from course import figures
from helpers.records import folders, parameters

FOLDER = folders.REPOSITORY / "notebooks"
SECONDS = re.compile(r"-->(\d+) s<!--")
GLOSSARY = FOLDER / "GLOSSARY.md"
DOCS = folders.REPOSITORY / "docs"
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")
NOT_PROSE = [  # code, formulas, headings, the badge, targets of links
    re.compile(text, re.MULTILINE)
    for text in (
        r"```[^`]*```",
        r"`[^`]*`",
        r"\$[^$]*\$",
        r"^#.*$",
        r"^\[!\[.*$",
        r"(?<=\])\([^()\s]+\)",
    )
]


@functools.cache
def markdown(name):
    """The Markdown cells of a lesson or another notebook, in order (list of str)."""
    return [
        cell.source
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
        if cell.cell_type == "markdown"
    ]


def readme():
    return (folders.REPOSITORY / "README.md").read_text(encoding="utf-8")


@functools.cache
def terms():
    """{anchor: names} of the glossary: what stands in bold before the colon."""
    entries = re.findall(
        r'^<a id="([^"]+)"></a>((?:\*\*[^*]+\*\*(?:, )?)+): ',
        GLOSSARY.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {anchor: re.findall(r"\*\*([^*]+)\*\*", bold) for anchor, bold in entries}


def pattern(name):
    """How `name` may stand in a text: with a plural s, a hyphen for a blank, and in any case.

    A name with capitals must have them.
    """
    words = r"[\s-]+".join(map(re.escape, name.split()))
    return rf"(?{'i' if name.islower() else ''}:{words}(?:e?s)?)"


@functools.cache
def any_term():
    """(pattern of all names, longest first, a group each; the groups' anchors)."""
    names = sorted(
        ((name, anchor) for anchor, names in terms().items() for name in names),
        key=lambda pair: -len(pair[0]),
    )
    return re.compile(
        r"(?<!\w)(?:" + "|".join(f"({pattern(name)})" for name, _ in names) + r")(?!\w)"
    ), [anchor for _, anchor in names]


def first_uses(text):
    """{anchor: (start, end, target of the link around it or None)}: first uses of terms in prose.

    Inside a longer term, code, a heading, or the text of a link to something else a term does not
    count.
    """
    links = [(*found.span(1), found.group(2)) for found in LINK.finditer(text)]
    prose = text
    for hidden in NOT_PROSE:
        prose = hidden.sub(lambda found: re.sub(r"\S", " ", found.group()), prose)
    found, (terms_pattern, anchors) = {}, any_term()
    for use in terms_pattern.finditer(prose):
        target = next((where for start, end, where in links if start <= use.start() < end), None)
        if target is None or target.startswith("GLOSSARY.md#"):
            found.setdefault(anchors[use.lastindex - 1], (*use.span(), target))
    return found


MOST_LINKS = 5  # to the glossary in a lesson, for the terms that a newcomer most likely lacks


def linked_terms(text):
    """Anchors (list of str) of the glossary to which `text` links, in order."""
    return re.findall(r"\(GLOSSARY\.md#([^)]+)\)", text)


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_few_terms_are_linked_and_each_once(name):
    text = "\n\n".join(markdown(name))
    linked = linked_terms(text)
    assert len(linked) == len(set(linked)) <= MOST_LINKS
    assert set(linked) <= set(first_uses(text)), "linked under another name"


def test_every_term_is_used_and_stands_once():
    text = GLOSSARY.read_text(encoding="utf-8")
    assert text.count("<a id=") == len(terms()) > 50
    names = [name.casefold() for names in terms().values() for name in names]
    assert len(set(names)) == len(names)
    entries = re.sub(r"<a id=.*?: ", "", text)  # what stands behind a term may use others
    pages = [readme(), entries, *(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))]
    for path in FOLDER.rglob("*.ipynb"):  # exercises and extras, too
        pages.append("\n\n".join(markdown(path.relative_to(FOLDER).with_suffix(""))))
    used = set().union(*map(first_uses, pages))
    assert used == set(terms())


def test_first_uses_are_found():
    """The rules on a text of our own: longest name, plural, code, headings, other links."""
    text = "# Adapter\n`loss` [batch](x.md) The base model's loss masks, then the bases."
    assert {anchor: text[start:end] for anchor, (start, end, _) in first_uses(text).items()} == {
        "base-model": "base model",
        "loss-mask": "loss masks",
    }
    assert first_uses("an [adapter](GLOSSARY.md#adapter)")["adapter"][2] == "GLOSSARY.md#adapter"


def anchors_of(path):
    """What `#…` may name in a Markdown file (as on GitHub) or a notebook (as in JupyterLab)."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        return set(re.findall(r'<a id="([^"]+)">', text)) | {
            re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
        }
    cells = (cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    return {
        re.sub(r"[`*]", "", h).replace(" ", "-")
        for source in cells
        for h in re.findall(r"^#+ (.*)$", source, re.MULTILINE)
    }


def broken_links(path):
    """Links of a notebook or Markdown file (Path) whose file or anchor does not exist."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(
            cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "markdown"
        )
    broken = []
    for _, target in LINK.findall(re.sub(r"`[^`]*`", "", text)):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not re.match(r"\w+:", target) and not (
            file.exists() and (not anchor or anchor in anchors_of(file))
        ):
            broken.append(target)
    return broken


EXERCISES = FOLDER / "exercises"
EXTRAS = FOLDER / "extras"


@pytest.mark.parametrize(
    "path",
    [
        *FOLDER.glob("*.ipynb"),
        *FOLDER.glob("*.md"),
        *EXERCISES.glob("*.ipynb"),
        *EXTRAS.glob("*.ipynb"),
        folders.REPOSITORY / "README.md",
    ],
    ids=lambda path: path.name,
)
def test_links_lead_somewhere(path):
    assert not broken_links(path)


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "# One\n[a](a.md#one) [b](b.md) [c](#two) [d](https://example.org/x) `[e](f.md)`",
        encoding="utf-8",
    )
    assert broken_links(tmp_path / "a.md") == ["b.md", "#two"]


@pytest.mark.parametrize("place, name", list(enumerate(parameters.NOTEBOOKS)))
def test_opening_and_closing(place, name):
    first, last = markdown(name)[0], markdown(name)[-1]
    neighbours = {
        f"{parameters.NOTEBOOKS[i]}.ipynb"
        for i in (place - 1, place + 1)
        if 0 <= i < len(parameters.NOTEBOOKS)
    }
    for cell in (first, last):
        assert neighbours <= {target for _, target in LINK.findall(cell)}
    assert re.search(r"\*\*Objectives\.\*\*.*\n(- .*[;.]\n){3,}", first)
    assert re.search(r"^## Recap\n\w", last, re.MULTILINE)
    questions = last.split("## Three questions to yourself\n")[1].split("\n\n")[0].splitlines()
    assert [line[:3] for line in questions] == ["1. ", "2. ", "3. "] and all(
        line.endswith("?") for line in questions
    )
    assert f"(exercises/{name}.ipynb)" in last


def test_the_instructors_schedules_add_up():
    """The slots fill the time, and each is long enough for what the machine computes in it."""
    guide = (FOLDER / "INSTRUCTORS.md").read_text(encoding="utf-8")
    computed = figures.stored()["notebooks"]
    for heading, minutes in (("90 minutes", 90), ("Half a day", 210)):
        part = guide.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        slots = re.findall(r"^\| (\d+) \| .* \|(.*)\|$", part, re.MULTILINE)
        assert sum(int(slot) for slot, _ in slots) == minutes
        took = [
            (int(slot), int(found[1])) for slot, cell in slots if (found := SECONDS.search(cell))
        ]
        assert [seconds for _, seconds in took] == [one["seconds"] for one in computed.values()]
        assert all(60 * slot > seconds for slot, seconds in took)


@pytest.mark.parametrize("place, name", list(enumerate(parameters.NOTEBOOKS)))
def test_instructors_quote_what_the_notebooks_print(place, name):
    """On lines that begin with "Should come out", code in `` is printed by the notebook."""
    guide = (
        (FOLDER / "INSTRUCTORS.md")
        .read_text(encoding="utf-8")
        .split(f"\n## 0{place + 1} · ")[1]
        .split("\n## ")[0]
    )
    line = re.search(
        r"^- \*\*Should come out(?:, everywhere)?:\*\*(.*)$", guide, re.MULTILINE
    ).group(1)
    outputs = [
        out
        for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
        for out in cell.get("outputs", [])
    ]
    printed = "".join(out.get("text", "") for out in outputs)
    quotes = [quote for quote in re.findall(r"`([^`]+)`", line) if " " in quote]
    assert quotes and all(quote in printed for quote in quotes)
