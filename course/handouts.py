"""Handouts: the notebooks with their stored outputs as pages that need no network: python -m course handouts [FOLDER]"""

import argparse
import base64
import io
import posixpath
import re
from pathlib import Path

import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from course import refresh
from helpers.records import folders, parameters

FOLDER = folders.REPOSITORY / "notebooks"
TEMPLATE = Path(__file__).with_suffix(".html.j2")


def sources():
    """What becomes a page: paths relative to notebooks/ (list of str), in the order of the contents page."""
    exercises = (
        path.name
        for path in sorted((FOLDER / "exercises").glob("*.ipynb"))
        if "_solution" not in path.name
    )
    found = [f"{name}.ipynb" for name in parameters.NOTEBOOKS] + [
        f"exercises/{name}" for name in exercises
    ]
    return [
        *found,
        *(name for name in ("GLOSSARY.md", "INSTRUCTORS.md") if (FOLDER / name).is_file()),
    ]


def page_of(source):
    """The page's path (str) for a notebook or Markdown file (str)."""
    return str(Path(source).with_suffix(".html").as_posix())


class Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer; links lead to the other pages, formulas are drawn, badges left out."""

    def __init__(self, source):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.source = source

    def heading(self, text, level, **attrs):
        anchor = re.sub("<[^>]*>", "", text).replace(" ", "-")  # as in JupyterLab
        if self.source.endswith(".md"):  # as on GitHub
            anchor = re.sub(r"[^\w-]", "", anchor).lower()
        return super().heading(text, level, id=anchor)

    def link(self, text, url, title=None):
        if not text:  # held a badge
            return ""
        path, mark, anchor = url.partition("#")
        if path and "://" not in path and not path.startswith("mailto:"):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(self.source), path))
            if target in sources():
                url = (
                    posixpath.relpath(page_of(target), posixpath.dirname(self.source) or ".")
                    + mark
                    + anchor
                )
            else:  # not among the pages: in the repository
                repository, ref = refresh.repository()
                url = f"{repository}/blob/{ref}/{posixpath.normpath(posixpath.join('notebooks', target))}{mark}{anchor}"
        return super().link(text, url, title)

    def image(self, text, url, title=None):
        return "" if "://" in url else super().image(text, url, title)

    def inline_math(self, body):
        from matplotlib.mathtext import math_to_image

        drawn = io.BytesIO()
        readable = body.replace(r"\frac", r"\dfrac")
        try:
            depth = math_to_image(
                f"${readable}$", drawn, format="svg"
            )  # points, as the sizes in the file; letters have 10
        except ValueError as error:
            raise ValueError(
                f"notebooks/{self.source}: the formula ${body}$ cannot be drawn; write it as matplotlib's mathtext."
            ) from error
        height = float(re.search(r' height="([\d.]+)pt"', drawn.getvalue().decode()).group(1))
        size = f"height:{height / 10:.2f}em;vertical-align:{-depth / 10:.2f}em"
        data = base64.b64encode(drawn.getvalue()).decode()
        return f'<img class="formula" alt="{self.escape_html(body)}" style="{size}" src="data:image/svg+xml;base64,{data}">'

    block_math = inline_math


class Exporter(HTMLExporter):
    """nbconvert's HTML exporter with our renderer and template: no script, nothing from elsewhere."""

    @pass_context
    def markdown2html(self, context, source):
        return MarkdownWithMath(renderer=Renderer(context["resources"]["source"])).render(source)


def read(source):
    """A notebook (NotebookNode) from a notebook or Markdown file (path relative to notebooks/, str)."""
    if source.endswith(".ipynb"):
        return nbformat.read(FOLDER / source, 4)
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell((FOLDER / source).read_text(encoding="utf-8"))]
    )


def title(notebook):
    """The first heading of `notebook` (NotebookNode), without its mark."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def pages():
    """All pages, the contents page among them: {path relative to the output folder: HTML}."""
    notebooks = {source: read(source) for source in sources()}
    contents = "\n".join(
        f"- [{title(notebook)}]({source})" for source, notebook in notebooks.items()
    )
    cell = nbformat.v4.new_markdown_cell(
        f"# Fine-tune Llama 3 with LoRA on your own data\n\nThe notebooks as they were run.\n\n{contents}"
    )
    notebooks["index.ipynb"] = nbformat.v4.new_notebook(cells=[cell])
    exporter = Exporter(
        template_name="classic",
        template_file=str(TEMPLATE),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    made = {}
    for source, notebook in notebooks.items():
        resources = {
            "source": source,
            "title": title(notebook),
            "home": "../" * source.count("/") + "index.html",
        }
        made[page_of(source)] = exporter.from_notebook_node(notebook, resources)[0]
    return made


def write(folder):
    """Write the pages into `folder` (Path), once all of them are made. Returns their paths (list of Path)."""
    paths = []
    for name, page in pages().items():
        paths.append(folder / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(page, encoding="utf-8")
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=folders.REPOSITORY / "html")
    folder = parser.parse_args().folder
    print(f"wrote {len(write(folder))} pages; open {folder / 'index.html'}")


if __name__ == "__main__":
    main()
