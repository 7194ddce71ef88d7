"""Types for the benchmarks' command lines: what is wrong is said before anything is measured."""

import argparse
import os
from pathlib import Path


def count(text):
    """An int of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number of at least 1.")
    return int(text)


def file(text):
    """Path of a file that can be written when all is measured; its folder is made."""
    path = Path(text).absolute()
    folder(path.parent)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file.")
    return path


def folder(text):
    """Path of a folder that can be written to; it is made."""
    path = Path(text).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be made: {error.strerror}.") from None
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} may not be written to.")
    return path


class Sizes(argparse.Action):
    """Two sizes or more, each once, the smallest first."""

    def __call__(self, parser, namespace, values, option=None):
        values = sorted(set(values))
        if len(values) < 2:
            parser.error(f"{option}: at least two sizes, to see how time grows.")
        setattr(namespace, self.dest, values)
