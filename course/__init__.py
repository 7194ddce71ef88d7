"""The command line: everything that works on the notebooks from outside."""
