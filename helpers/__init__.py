"""Plumbing of the course: files, devices, figures. The lesson itself stands in the notebooks."""
