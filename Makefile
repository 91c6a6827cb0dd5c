# Needs python3 (3.11 to 3.13), a C compiler and make; everything else goes into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
SOURCES = $(wildcard fastproxy/*.pyx fastproxy/*.pxd fastproxy/core/*.pxi) setup.py pyproject.toml

.PHONY: run test lint types docs bench bench-quick fuzz asan binary binary-dir wheel release dev clean

run: $(VENV)/.built          ## start the gateway on 127.0.0.1:4000 with the mock LLM behind it
	$(BIN)/fastproxy --config examples/proxy.yaml --mock --hello

test: $(VENV)/.tested        ## the whole suite
	$(BIN)/python -m pytest

lint: $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint fastproxy/*.pyx fastproxy/*.pxd fastproxy/core/*.pxi

types: $(VENV)/.linted $(VENV)/.built
	$(BIN)/mypy

docs: $(VENV)/.built         ## the generated pages of docs/
	$(BIN)/python docs/make.py

bench: $(VENV)/.built        ## nginx, HAProxy and fastproxy side by side; writes bench/RESULTS.md
	bench/setup
	$(BIN)/python bench/compare.py

bench-quick: $(VENV)/.built  ## under a minute, prints only
	bench/setup
	$(BIN)/python bench/compare.py --quick

SECONDS ?= 60
LEAVES   = $(addprefix tests/unit/test_,head.py head_oracle.py chunked.py scan.py tap.py multipart.py)

fuzz: $(VENV)/.fuzzed        ## coverage-guided, SECONDS for each target; TARGETS="head tap" for some
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(TARGETS)

asan: $(VENV)/.sanitized     ## the leaves' and the wire tests under AddressSanitizer and UBSan
	tests/fuzz/asan.sh $(BIN)/python $(LEAVES) tests/fuzz tests/wire

binary: $(VENV)/.packaging $(VENV)/.built   ## dist/fastproxy: the whole gateway in one file
	$(BIN)/pyinstaller --log-level WARN --noconfirm --distpath dist --workpath .build/pyinstaller build/fastproxy.spec

binary-dir: $(VENV)/.packaging $(VENV)/.built  ## dist/fastproxy-dir/: the same as a folder, for containers
	FASTPROXY_ONEDIR=1 $(BIN)/pyinstaller --log-level WARN --noconfirm --distpath dist --workpath .build/pyinstaller-dir build/fastproxy.spec

wheel: $(VENV)/.packaging    ## dist/: source distribution and a wheel for this Python
	$(BIN)/python -m build --outdir dist .

release: binary wheel        ## the above, a software bill of materials and checksums
	$(PYTHON) -m venv --clear .build/released
	.build/released/bin/python -m pip install --quiet dist/*.whl
	.build/released/bin/fastproxy --version
	$(BIN)/cyclonedx-py environment --of JSON -o dist/fastproxy.cdx.json .build/released/bin/python
	cd dist && sha256sum fastproxy *.whl *.tar.gz *.json > SHA256SUMS

dev: $(VENV)/.tested $(VENV)/.linted

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "fastproxy needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12 …" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.built: $(VENV)/bin/pip $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.built pyproject.toml
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(VENV)/.packaging: $(VENV)/bin/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group packaging
	@touch $@

$(VENV)/.linted: $(VENV)/bin/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@

# setup.py by hand, as these builds need switches that pip does not pass
$(VENV)/.sanitized: $(VENV)/.tested
	$(BIN)/python -m pip install --quiet "setuptools>=80" "Cython>=3.3,<3.4"
	@touch $@

$(VENV)/.fuzzed: $(VENV)/.sanitized
	$(BIN)/python -m pip install --quiet "atheris>=3"
	@touch $@

clean:
	rm -rf .build dist $(VENV) *.egg-info fastproxy/*.so
