PYTHON ?= python3
RUN = .venv/bin/python
# As in course/run.py, which says why: for JupyterLab and the tests.
export GOMP_SPINCOUNT ?= 30000
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export MALLOC_MMAP_THRESHOLD_ ?= 33554432
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: setup course test check lab html notebooks bundle drift pins audit

course: setup   ## the five notebooks on their defaults
	$(RUN) -m course run

# Two at a time with a thread each, then the notebooks on their defaults with all of the machine.
test: setup .venv/.test-ready ## all tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -m "not course" -n 2 --dist worksteal
	$(RUN) -m pytest -q -m course

check: setup .venv/.test-ready ## format, lint, and the tests that take a moment: about two minutes
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -m "not course and not slow" -n 2 --dist worksteal

lab: setup      ## JupyterLab on the notebooks
	$(RUN) -m jupyterlab notebooks

html: setup      ## the notebooks as pages in html/, for reading without Jupyter or network
	$(RUN) -m course handouts

notebooks: setup ## run the committed notebooks and store their outputs and figures
	$(RUN) -m course refresh
	$(RUN) -m course figures
	$(RUN) -m course exercises --run

bundle: setup   ## an archive for a classroom without network; ARGS="--platform windows-x86_64 --run runs/default"
	$(RUN) -m course bundle $(ARGS)

# In an environment of its own; a test that fails names what moved.
drift:          ## the tests with the newest allowed versions, and what differs from the pins
	$(PYTHON) -m venv --clear .venv-drift
	.venv-drift/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -r requirements.in -r requirements-dev.in
	PYTHONWARNINGS=ignore .venv-drift/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	.venv-drift/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test.txt
	-.venv-drift/bin/python -m pip freeze --all -r requirements.txt | sed '/^##/,$$d' | tr _ - | diff -i -U0 requirements.txt - | grep -i '^[-+][a-z]'
	.venv-drift/bin/python -m pytest -q -W default::DeprecationWarning -W default::FutureWarning

# For the oldest Python the course allows. What torch needs for NVIDIA GPUs is left out: its own builds bring it or not.
pins:           ## the newest allowed versions into requirements.txt; "make test" afterwards
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-pins/bin/uv pip compile --quiet requirements.in requirements-dev.in -o .venv-pins/all.txt --python-version 3.11 --no-annotate --no-header
	grep -vE '^(cuda|nvidia|triton)' .venv-pins/all.txt > .venv-pins/requirements.txt
	cp .venv-pins/requirements.txt requirements.txt

audit:          ## known vulnerabilities of the pinned packages (needs the network)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@.venv-audit/bin/python -m pip_audit --strict --no-deps --disable-pip -r requirements.txt || { \
		echo "Either the lines above name vulnerabilities, or a package 'could not be audited': then the service that lists them was not reached." >&2; exit 1; }

setup: .venv/.ready
	@$(RUN) -m course model

# The stamp is touched last: an interrupted set-up starts again.
.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@$(RUN) -m compileall -qq -j 0 .venv/lib || true  # on all cores; pip takes one. A few files hold no valid Python.
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/.test-ready: requirements-test.txt .venv/.ready
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test.txt
	touch $@
