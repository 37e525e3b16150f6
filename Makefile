# The newcomer's commands. Each makes what it needs: Python 3.11+ is all that has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install test check demo clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Meshwright needs Python 3.11 or newer; $$($(PYTHON) --version) is here. Next: make install PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,examples,benchmarks]'
	@touch $(STAMP)

test: check

check: install
	scripts/check

demo: install
	$(BIN)/meshwright run examples/character_gpt.py

clean:
	rm -rf $(VENV) outputs
