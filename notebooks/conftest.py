"""nbval compares printed results; progress bars and HTML tables differ from machine to machine."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html")
