"""Plumbing of the course: files, devices, figures. The lesson itself stands in the notebooks."""

import gc

# The libraries make half a million objects that stay. With Python's 700, a sixth of the time to import them goes into
# looking through them for garbage again and again.
gc.set_threshold(20_000, 10, 10)
