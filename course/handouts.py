"""Handouts: the notebooks with their stored outputs as pages that need no network."""

import base64
import io
import posixpath
import re
from pathlib import Path

import nbformat
from jinja2 import pass_context
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from course import refresh
from helpers.records import folders, parameters

TEMPLATE = Path(__file__).with_suffix(".html.j2")


def sources():
    """What becomes a page: paths relative to notebooks/ (list of str), in the contents' order."""
    names = [f"{name}.ipynb" for name in parameters.NOTEBOOKS]
    for path in sorted((folders.NOTEBOOKS / "exercises").glob("*.ipynb")):
        if not path.stem.endswith("_solution"):
            names.append(f"exercises/{path.name}")
    extras = [f"{name}.ipynb" for name in refresh.extras()]
    return [*names, *extras, "GLOSSARY.md", "INSTRUCTORS.md"]


def page_of(source):
    """The page's path (str) for a notebook or Markdown file (str)."""
    return str(Path(source).with_suffix(".html").as_posix())


class Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with links between pages, drawn formulas, and no badges."""

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
            url = self._target(path) + mark + anchor
        return super().link(text, url, title)

    def _target(self, path):
        """Where a relative link leads: to another page, or to the repository (URL, str)."""
        here = posixpath.dirname(self.source)
        target = posixpath.normpath(posixpath.join(here, path))
        if target in sources():
            return posixpath.relpath(page_of(target), here or ".")
        repository, ref = refresh.repository()
        return f"{repository}/blob/{ref}/{posixpath.normpath(posixpath.join('notebooks', target))}"

    def image(self, text, url, title=None):
        return "" if "://" in url else super().image(text, url, title)

    def inline_math(self, body):
        drawn = io.BytesIO()
        readable = body.replace(r"\frac", r"\dfrac")
        try:
            # Sizes in points, also in the file; letters have 10.
            depth = math_to_image(f"${readable}$", drawn, format="svg")
        except ValueError as error:
            raise ValueError(
                f"notebooks/{self.source}: the formula ${body}$ cannot be drawn; write it as "
                "matplotlib's mathtext."
            ) from error
        height = float(re.search(r' height="([\d.]+)pt"', drawn.getvalue().decode()).group(1))
        size = f"height:{height / 10:.2f}em;vertical-align:{-depth / 10:.2f}em"
        data = base64.b64encode(drawn.getvalue()).decode()
        text = self.escape_html(body)
        source = f"data:image/svg+xml;base64,{data}"
        return f'<img class="formula" alt="{text}" style="{size}" src="{source}">'

    block_math = inline_math


class Exporter(HTMLExporter):
    """nbconvert's HTML exporter with our renderer and template: no script, nothing fetched."""

    @pass_context
    def markdown2html(self, context, source):
        return MarkdownWithMath(renderer=Renderer(context["resources"]["source"])).render(source)


def read(source):
    """A NotebookNode from a notebook or a Markdown file (its path relative to notebooks/, str)."""
    if source.endswith(".ipynb"):
        return nbformat.read(folders.NOTEBOOKS / source, 4)
    text = (folders.NOTEBOOKS / source).read_text(encoding="utf-8")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def title(notebook):
    """The first heading of `notebook` (NotebookNode), without its mark."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def contents(notebooks):
    """The contents page (NotebookNode) over {source: NotebookNode}."""
    links = "\n".join(f"- [{title(notebook)}]({name})" for name, notebook in notebooks.items())
    heading = "# Fine-tune Llama 3 with LoRA on your own data\n\nThe notebooks as they were run."
    cell = nbformat.v4.new_markdown_cell(f"{heading}\n\n{links}")
    return nbformat.v4.new_notebook(cells=[cell])


def pages():
    """All pages, the contents page among them: {path relative to the output folder: HTML}."""
    notebooks = {source: read(source) for source in sources()}
    notebooks["index.ipynb"] = contents(notebooks)
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
    """Write the pages into `folder` (Path) once all of them are made; returns their Paths."""
    paths = []
    for name, page in pages().items():
        paths.append(folder / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(page, encoding="utf-8")
    return paths


def make(folder=""):
    """Write the pages into `folder` (path; html/ when it is "") and say so; returns None."""
    target = Path(folder or folders.REPOSITORY / "html")
    print(f"wrote {len(write(target))} pages; open {target / 'index.html'}")
