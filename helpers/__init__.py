"""Plumbing of the course, a room for each lesson. The lesson itself stands in the notebooks."""

import logging
import warnings

# Before the libraries are imported, for they speak while they are: of a widget that a plain
# progress bar does without, and of a kernel that bitsandbytes looks for on the Hub.
warnings.filterwarnings("ignore", message="IProgress not found")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
