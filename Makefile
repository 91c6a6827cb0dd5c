# Needs python3 (3.11 to 3.13), a C compiler and make; everything else goes into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
SOURCES = $(wildcard fastproxy/*.pyx fastproxy/*.pxd fastproxy/*/*.pxi) setup.py pyproject.toml

.PHONY: run test lint types docs bench bench-quick soak fuzz asan binary binary-dir wheel sbom release kills test-packaging lock dev clean

run: $(VENV)/.built          ## start the gateway on 127.0.0.1:4000 with the mock LLM behind it
	$(BIN)/fastproxy --config examples/proxy.yaml --mock --hello

JOBS ?= 3
test: $(VENV)/.tested        ## the whole suite, JOBS files at a time: most tests wait for processes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint fastproxy/*.pyx fastproxy/*.pxd fastproxy/*/*.pxi

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

soak: $(VENV)/.built         ## half an hour of faulty upstreams; writes bench/SOAK.md. SECONDS=60 for a try
	$(BIN)/python bench/soak.py --write $(if $(filter command% environment,$(origin SECONDS)),--seconds $(SECONDS))

KILLS   ?= 50
kills: $(VENV)/.tested       ## KILLS random processes die under load; what was spent is held against what clients saw
	KILLS=$(KILLS) $(BIN)/python -m pytest -s tests/e2e/test_kills.py

SECONDS ?= 60
SEED    ?= 0
RUNS    ?= 0
LEAVES   = $(addprefix tests/unit/test_,head.py head_oracle.py chunked.py scan.py json.py tap.py usage.py multipart.py)

fuzz: $(VENV)/.fuzzed        ## coverage-guided, SECONDS for each target; TARGETS="head tap" for some
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) --runs $(RUNS) --seed $(SEED) $(TARGETS)

asan: $(VENV)/.sanitized     ## the leaves' and the wire tests under AddressSanitizer and UBSan
	tests/fuzz/asan.sh $(BIN)/python $(LEAVES) tests/fuzz tests/wire

# Packaging. The one-file program is made from the wheel, in an environment of its own with pinned versions and hashes:
# PyInstaller packs whatever optional module it finds. One seed and one date, so that the same commit gives the same bytes.
FROZEN  = .build/frozen
DATE   := $(shell git log -1 --format=%ct 2>/dev/null || echo 1767225600)
REPEAT  = SOURCE_DATE_EPOCH=$(DATE) PYTHONHASHSEED=1
FREEZE  = $(REPEAT) $(FROZEN)/bin/pyinstaller --log-level WARN --noconfirm --distpath dist
MODULES = $(shell find fastproxy -name '*.py')

binary: $(FROZEN)/.installed       ## dist/fastproxy: the whole gateway in one file
	$(FREEZE) --workpath .build/pyinstaller build/fastproxy.spec

binary-dir: $(FROZEN)/.installed   ## dist/fastproxy-dir/: the same as a folder, for containers
	FASTPROXY_ONEDIR=1 $(FREEZE) --workpath .build/pyinstaller-dir build/fastproxy.spec

wheel: $(VENV)/.packaging    ## dist/: source distribution and a wheel for this Python
	build/wheel $(BIN)/python dist

sbom: $(FROZEN)/.installed $(VENV)/.packaging  ## dist/fastproxy.cdx.json: what is in the one file, CycloneDX
	$(REPEAT) $(BIN)/cyclonedx-py environment --output-reproducible --of JSON -o dist/fastproxy.cdx.json $(FROZEN)/bin/python

release: binary wheel sbom   ## the above and their checksums
	cd dist && sha256sum fastproxy *.whl *.tar.gz *.cdx.json > SHA256SUMS

test-packaging: $(VENV)/.tested binary  ## builds the one file and uses it
	$(BIN)/python -m pytest tests/packaging

lock: $(VENV)/.packaging     ## pins build/requirements.txt anew, within the bounds of pyproject.toml
	build/lock $(BIN)

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

$(FROZEN)/.tools: build/requirements.txt
	$(PYTHON) -m venv --clear $(FROZEN)
	$(FROZEN)/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r build/requirements.txt
	@touch $@

# .build/lib is setuptools' and keeps modules that are no longer there
$(FROZEN)/.installed: $(FROZEN)/.tools $(SOURCES) $(MODULES)
	rm -rf .build/lib .build/lib.*
	$(FROZEN)/bin/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
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
