"""The handouts: nothing from elsewhere, links and pictures whole; no page scrolls sideways."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request

import bs4
import matplotlib
import pytest

from course import handouts
from helpers.records import parameters

matplotlib.use("agg")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pages of the committed notebooks (Path)."""
    out = tmp_path_factory.mktemp("html")
    handouts.write(out)
    return out


@pytest.fixture(scope="module")
def parsed(folder):
    """{path: BeautifulSoup} of the pages."""
    return {
        path: bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(folder.rglob("*.html"))
    }


def test_pages_are_there(folder, parsed):
    names = {path.relative_to(folder).as_posix() for path in parsed}
    assert {
        "index.html",
        "GLOSSARY.html",
        "INSTRUCTORS.html",
        *(f"{name}.html" for name in parameters.NOTEBOOKS),
    } <= names
    assert not any("_solution" in name for name in names)
    listed = {link["href"] for link in parsed[folder / "index.html"].find_all("a", href=True)}
    assert listed == names - {"index.html"}
    assert (
        "{'train': 508, 'validation': 100, 'test': 300}"
        in parsed[folder / "01_data.html"].get_text()
    )  # an output


def test_nothing_comes_from_elsewhere(parsed):
    for path, page in parsed.items():
        assert not page.find_all(["script", "iframe", "object", "embed"]), path.name
        assert not page.find_all("link") and "@import" not in str(page)
        assert all(element["src"].startswith("data:") for element in page.find_all(src=True)), (
            path.name
        )
        assert not re.search(
            r"url\((?!['\"]?data:)", "".join(style.get_text() for style in page.find_all("style"))
        )


def test_pictures_are_whole_and_described(parsed):
    plots = 0
    for path, page in parsed.items():
        for picture in page.find_all("img"):
            kind, data = re.fullmatch(
                r"data:image/([a-z+]+);base64,([\w+/=\s]+)", picture["src"]
            ).groups()
            assert base64.b64decode(data).startswith(b"\x89PNG" if kind == "png" else b"<?xml")
            described = picture["alt"] and not picture["alt"].startswith(
                "No description"
            )  # nbconvert's stopgap
            assert described, f"{path.name}: a picture without alternative text"
            plots += kind == "png"
    assert plots >= 5


def test_links_between_pages(parsed):
    for path, page in parsed.items():
        for link in page.find_all("a", href=True):
            target, _, anchor = link["href"].partition("#")
            if not target.startswith("http"):
                other = parsed.get((path.parent / target).resolve() if target else path)
                assert other and (not anchor or other.find(id=anchor)), (
                    f"{path.name}: {link['href']}"
                )
            else:
                assert link.get_text(strip=True), f"{path.name}: nothing to click on for {target}"


def test_links_badges_and_formulas_in_a_page():
    draw = handouts.MarkdownWithMath(
        renderer=handouts.Renderer("exercises/failure_lab.ipynb")
    ).render
    assert 'href="../03_train.html#Loss"' in draw("[train](../03_train.ipynb#Loss)")
    assert re.search(
        r'href="https://[^"]+/blob/[^"]+/README.md#measured"',
        draw("[README](../../README.md#measured)"),
    )
    assert "href" not in draw("[![Open in Colab](https://example.org/b.svg)](https://example.org)")
    page = bs4.BeautifulSoup(draw(r"By $\frac{\alpha}{r} B_{new}$ & more"), "html.parser")
    assert (
        page.img["alt"] == r"\frac{\alpha}{r} B_{new}" and page.get_text().strip() == "By  & more"
    )
    with pytest.raises(ValueError, match=r"exercises/failure_lab.ipynb: the formula .*nonsense"):
        draw(r"$\nonsense$")


def test_plots_say_what_they_show():
    """As IPython asks a figure: the text becomes metadata, which nbconvert makes the alt."""
    import matplotlib.pyplot as plt
    from IPython.core.formatters import DisplayFormatter

    from helpers import plots

    plots.confusion(
        ["$5_$9", "none"], ["none", "none"], ["$5_$9", "none"]
    ).canvas.draw()  # no formula
    figure = plots.scores(
        {"majority": (0.5, (0.44, 0.56)), "merged": (0.89, (0.86, 0.93))}, "accuracy"
    )
    _, metadata = DisplayFormatter().format(figure)
    plt.close(figure)
    assert metadata["image/png"]["alt"] == (
        "Bars of accuracy with 95 % intervals: always the same answer 50 % (44 to 56), "
        "tuned (merged) 89 % (86 to 93). A line at 50 %, where the constant answer ends."
    )


class Tab:
    """A browser's page, driven over the DevTools protocol."""

    def __init__(self, loop, connection):
        self.loop, self.connection, self.number, self.requested = loop, connection, 0, []

    def __call__(self, method, **parameters):
        """Send a command; returns its result (dict)."""
        self.number += 1
        self.connection.write_message(
            json.dumps({"id": self.number, "method": method, "params": parameters})
        )
        return self.wait(lambda message: message.get("id") == self.number)["result"]

    def wait(self, wanted):
        while True:
            text = self.loop.run_sync(self.connection.read_message, timeout=60)
            message = json.loads(text)
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if wanted(message):
                return message

    def open(self, path):
        """Show the page at `path` (Path); returns what else it asked for (list of URLs)."""
        self.requested.clear()
        self("Page.navigate", url=path.as_uri())
        self.wait(lambda message: message.get("method") == "Page.loadEventFired")
        return [
            url for url in self.requested if url != path.as_uri() and not url.startswith("data:")
        ]

    def evaluate(self, script):
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"]["value"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if not BROWSER:
        pytest.skip("no chromium or Chrome on this machine: how the pages look is not tested")
    from tornado.ioloop import IOLoop
    from tornado.websocket import websocket_connect

    profile = tmp_path_factory.mktemp("profile")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, end = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            assert browser.poll() is None and time.monotonic() < end, "the browser does not start"
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        pages = json.load(
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address)
        )
        loop = IOLoop(make_current=False)
        url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        connected = Tab(loop, loop.run_sync(lambda: websocket_connect(url, max_message_size=2**28)))
        connected("Page.enable")
        connected("Network.enable")
        yield connected
        connected.connection.close()
        loop.close()
    finally:
        browser.kill()
        browser.wait()


MEASURE = """({
    wide: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth),
    broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
    letters: parseFloat(getComputedStyle(document.querySelector("main")).fontSize),
})"""


def test_in_a_browser(tab, folder, parsed, tmp_path):
    for width in (1280, 390):
        tab(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        for path in parsed:
            loaded = tab.open(path)
            seen = tab.evaluate(MEASURE)
            assert seen["wide"] <= width, f"{path.name} scrolls sideways at {width} pixels"
            assert not loaded and not seen["broken"] and seen["letters"] >= 16, (
                path.name,
                loaded,
                seen,
            )
    wide = tmp_path / "wide.html"
    wide.write_text(
        "<main><img src='missing.png'><p style='width:500px'>wide</p></main>", encoding="utf-8"
    )
    loaded, seen = tab.open(wide), tab.evaluate(MEASURE)
    assert seen["wide"] > 390 and seen["broken"] and loaded, (
        "the measurement does not see what it should"
    )
