# make run: the kit from images to pictures; make help: the rest
# Everything happens in .venv; a second call installs nothing.

PYTHON ?= python3
PY := .venv/bin/python
NOTEBOOKS := train_default.ipynb train.ipynb train_best.ipynb inference.ipynb

.PHONY: help run lab check report test test-all lint types test-unit test-notebooks test-browser test-faults test-slow test-long faults bench figures reference-figures notebooks grade-demo student

help:            ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run   ## train the baseline and look at it: notebooks to result/notebooks, numbers to result/*.csv
	$(PY) -m lib.notebook train_default.ipynb inference.ipynb

lab: .venv/run   ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab train_default.ipynb

check: .venv/run ## try your exercises: what is right, what is not, and why
	$(PY) -m lib.check exercises

report: .venv/run ## result/report.html and .md: every attempt so far
	$(PY) -m lib.report --out result

# what stands between these delimiters is not in the student edition
### BEGIN INSTRUCTOR
STEP := .ci/step
SHARE := 0.02

test: .venv/dev ## all checks but the slow tests
	$(MAKE) -j 2 test-notebooks lint types test-browser test-faults  # the longest first
	$(MAKE) test-unit  # on two

test-all: .venv/dev ## the same, the slow and the long tests, and three minutes of the tries of make faults
	$(MAKE) test SHARE=0.07
	$(MAKE) test-slow
	$(MAKE) test-long

lint: .venv/dev  ## ruff, format, spelling, the order of imports
	$(STEP) $(PY) -m ruff check .
	$(STEP) $(PY) -m ruff format --check -q .
	$(STEP) .venv/bin/codespell
	$(STEP) .venv/bin/lint-imports

types: .venv/dev ## mypy, strict on the shelf and on lib/grade
	$(STEP) $(PY) -m mypy

test-unit: .venv/dev ## unit tests, and how much of lib they reach: at least 90 %
	$(STEP) $(PY) -m pytest -q -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=90

test-notebooks: .venv/dev ## the four notebooks (smoke profile)
	$(STEP) $(PY) -m tests.notebooks $(NOTEBOOKS)

test-browser: .venv/dev ## the slice browser in Chromium, where it is installed
	$(STEP) $(PY) -m pytest -q -m "browser and not slow and not long"

test-faults: .venv/dev ## a minute of the tries of make faults
	$(STEP) $(PY) -m tests.faults --share $(SHARE)

test-slow: .venv/dev ## tests of more than a few seconds, the longest first
	$(STEP) $(PY) -m pytest -q -n 2 --dist worksteal -m "slow and not long" --durations=10 tests/maintain/test_student.py tests

test-long: .venv/dev ## tests that kill, race and draw lots for minutes
	$(STEP) $(PY) -m pytest -q -n 2 --dist worksteal -m long --durations=10 tests

faults: .venv/dev ## damage, interrupt and misuse the kit, docs/reliability.md; all tries with FULL=1, half an hour
	$(PY) -m tests.faults $(if $(FULL),--full)

bench: .venv/dev ## speed and memory, measured side by side on this machine, 4 minutes; all with FULL=1, half an hour
	$(PY) -m benchmarks.run $(if $(FULL),--full)

notebooks: .venv/run ## execute the notebooks in place on the phantom, as they are committed
	KIT_DATA=phantom $(PY) -m lib.notebook --in-place $(NOTEBOOKS)

reference-figures: .venv/run ## tables and figures of what was measured, in result/reference and docs
	$(PY) -m maintain.results
	$(PY) -m maintain.pretrained
	$(PY) -m maintain.findings
	$(PY) -m maintain.answers

grade-demo: .venv/run ## grade ten made-up submissions, and print the gradebook of docs/instructors.md
	$(PY) -m tests.grade.demo result/grade-demo

student: .venv/run ## write the student edition: without solutions, results and weights
	$(PY) -m maintain.student

figures: .venv/run ## draw the pictures of README and docs
	$(PY) -m maintain.figures img
### END INSTRUCTOR

ifneq ($(shell test -x $(PY) && $(PY) -c "print(1)" 2>&1), 1)
.PHONY: .venv/run  # an environment that is missing or does not run is made anew
endif

.venv/run: install.py requirements.txt constraints.txt
	$(PYTHON) install.py
	touch $@

### BEGIN INSTRUCTOR
.venv/dev: requirements-dev.txt .venv/run
	$(PYTHON) install.py --dev
	touch $@
### END INSTRUCTOR
