# Every target makes its own environment: nothing but Python 3.11 and pip is needed.
PYTHON ?= python3.11
VENV := .venv
LATEST := .venv-latest
RUN := TF_CPP_MIN_LOG_LEVEL=2

.PHONY: quickstart test test-latest test-slow check benchmark clean

quickstart: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m ast_keras.quickstart

test: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m pytest -q

test-slow: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m pytest -q -m slow

test-latest: $(LATEST)/ready
	$(RUN) $(LATEST)/bin/python -m pytest -q

check: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

benchmark: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m benchmarks.frontend
	$(RUN) $(VENV)/bin/python -m benchmarks.decoding

# A mark inside the environment, made last: an interrupted install is done again.
$(VENV)/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $@

$(LATEST)/ready: requirements-latest.txt requirements-dev.txt
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --upgrade pip
	$(LATEST)/bin/python -m pip install --quiet -r requirements-latest.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) $(LATEST) runs build dist *.egg-info
