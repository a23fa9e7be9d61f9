# Every target makes its own environment: nothing but Python 3.11 and pip is needed.
PYTHON ?= python3.11
VENV := .venv
LATEST := .venv-latest
CLIENTS := .venv-clients
PEER := .venv-peer
WEB := export/web
RUN := TF_CPP_MIN_LOG_LEVEL=2
# Two processes: most of a test is Python making graphs. The tests of a file share what they build.
# In the order of the files: by default those with few tests, which are the long ones, come last, and
# one process would wait for the other.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-latest test-slow test-clients check benchmark clean

quickstart: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m ast_keras.quickstart

test: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m pytest -q $(TWO)

test-slow: $(VENV)/ready
	$(RUN) $(VENV)/bin/python -m pytest -q -m slow

test-latest: $(LATEST)/ready
	$(RUN) $(LATEST)/bin/python -m pytest -q $(TWO)

# Programs of others that read what is exported. One that cannot be installed is skipped, with the
# reason; `installed` holds, for each, what the tests are told.
test-clients: $(VENV)/ready $(CLIENTS)/installed $(CLIENTS)/onnx/installed $(WEB)/node_modules/installed
	$(RUN) AST_KERAS_CLIENTS_PYTHON="$$(cat $(CLIENTS)/installed)" \
	AST_KERAS_CLIENTS_WEB="$$(cat $(WEB)/node_modules/installed)" \
	AST_KERAS_CLIENTS_ONNX="$$(cat $(CLIENTS)/onnx/installed)" \
	$(VENV)/bin/python -m pytest -q -m clients -rs tests/clients

check: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python .ci/check_words.py

# Half an hour to hours; FLAGS="--quick" takes minutes.
benchmark: $(VENV)/ready $(PEER)/ready
	$(RUN) $(VENV)/bin/python -m benchmarks --peer_python $(PEER)/bin/python $(FLAGS)

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

$(PEER)/ready: requirements-peer.txt
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --upgrade pip
	$(PEER)/bin/python -m pip install --quiet -r requirements-peer.txt
	$(PEER)/bin/python -m pip install --quiet --no-deps --target $(PEER)/extra torchaudio==2.9.1
	touch $@

$(CLIENTS)/installed: requirements-clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	@if $(CLIENTS)/bin/python -m pip install --quiet -r requirements-clients.txt 2>$(CLIENTS)/errors; \
	then echo "$(CURDIR)/$(CLIENTS)/bin/python" >$@; \
	else echo "missing: $$(tail -n 1 $(CLIENTS)/errors)" >$@; fi

# tf2onnx needs TensorFlow: it runs in the project's environment, from a folder next to it.
$(CLIENTS)/onnx/installed: requirements-onnx.txt | $(VENV)/ready $(CLIENTS)/installed
	@mkdir -p $(CLIENTS)/onnx
	@if $(VENV)/bin/python -m pip install --quiet --upgrade --no-deps --target $(CLIENTS)/onnx \
		-r requirements-onnx.txt 2>$(CLIENTS)/errors; \
	then echo "$(CURDIR)/$(CLIENTS)/onnx" >$@; \
	else echo "missing: $$(tail -n 1 $(CLIENTS)/errors)" >$@; fi

# The browser and a Vulkan driver that needs no GPU are Debian's; only root can install them.
$(WEB)/node_modules/installed: $(WEB)/package.json
	@mkdir -p $(WEB)/node_modules
	@if ! { command -v chromium && ldconfig -p | grep -q libvulkan.so.1; } && [ "$$(id -u)" = 0 ] \
	&& command -v apt-get; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium libvulkan1; \
	fi >$(WEB)/node_modules/errors 2>&1 || true
	@if (cd $(WEB) && npm install --no-package-lock --no-audit --no-fund) >>$(WEB)/node_modules/errors 2>&1; \
	then echo "$(CURDIR)/$(WEB)" >$@; \
	else mkdir -p $(WEB)/node_modules; echo "missing: npm install failed, see $(WEB)/node_modules/errors" >$@; fi

clean:
	rm -rf $(VENV) $(LATEST) $(CLIENTS) $(PEER) $(WEB)/node_modules runs build dist *.egg-info
