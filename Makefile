PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: setup course test lab lint notebooks

course: setup   ## the five notebooks on their defaults
	$(RUN) -m helpers.run

test: setup .venv/.test-ready ## all tests
	$(RUN) -m pytest -q

lab: setup      ## JupyterLab on the notebooks
	$(RUN) -m jupyterlab notebooks

lint: setup
	$(RUN) -m ruff check helpers tests

notebooks: setup ## run the committed notebooks and store their outputs in them
	$(RUN) -m helpers.refresh

setup: .venv/.ready
	@$(RUN) -m helpers.models

# The stamp is touched last: an interrupted set-up starts again.
.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/.test-ready: requirements-test.txt .venv/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test.txt
	touch $@
