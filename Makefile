# Shortcuts; the build itself is CMake (CMakePresets.json). Each works as the first command after
# the clone: tools/setup.sh installs what is missing.
#
#   make run [MODEL=DIR] [PORT=N] [PREFILL=N] [DECODE=N]
#                                   an OpenAI-compatible endpoint on 127.0.0.1
#   make test                       everything: check, e2e, cuda; what CI runs
#   make check                      format, floors, unit, torture and simulation tests
#   make clients                    chats through LiteLLM and LangChain from PyPI
#   make tables                     tokenizers and chat templates against their references, as tables
#   make asan | tsan | fuzz         the tests under sanitizers; the fuzz targets for FUZZ_SECONDS each
#   make format | bench | clean
MODEL ?= models/recall
PORT ?= 8000
PREFILL ?= 1
DECODE ?= 1
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 20
E2E_ARGS ?=
WERROR := -DSLUICE_WERROR=$(if $(CI),ON,OFF)

.DEFAULT_GOAL := build
.PHONY: setup build programs run test check e2e clients tables asan tsan e2e-asan fuzz format bench cuda clean

setup:
	@tools/setup.sh

build: setup
	@cmake --preset release $(WERROR) >/dev/null
	@cmake --build build -j $(JOBS)

# What serves, without the tests: half the time of a first build.
programs: setup
	@cmake --preset release $(WERROR) >/dev/null
	@cmake --build build -j $(JOBS) --target sluice-coordinator sluice-prefill sluice-decode sluice-bench

models/recall/config.json: tools/make_recall.py | setup
	@mkdir -p models
	/usr/bin/python3 tools/make_recall.py models/recall

RUN = build/bin/sluice-coordinator --model "$(MODEL)" --listen 127.0.0.1:$(PORT) \
	--pools local --prefill $(PREFILL) --decode $(DECODE)
run: programs $(if $(filter models/recall,$(MODEL)),models/recall/config.json)
	@exec tools/foreground.sh $(RUN)

check:
	@tools/setup.sh --check
	@$(MAKE) --no-print-directory build
	@tools/format.sh --check
	@ctest --test-dir build --output-on-failure -j $(JOBS)

e2e:
	@if [ -d tests/e2e ]; then tools/setup.sh --tests && $(MAKE) --no-print-directory build && \
		.venv/bin/python -m pytest -p no:cacheprovider -q -ra tests/e2e $(E2E_ARGS); \
	else echo "skip: e2e: there is no tests/e2e"; fi

# LiteLLM and LangChain from PyPI, in an environment of their own.
clients: build
	@cmp -s tools/requirements-clients.txt build/venv-clients/requirements || { rm -rf build/venv-clients && \
		/usr/bin/python3 -m venv --system-site-packages build/venv-clients && \
		build/venv-clients/bin/pip install -q --disable-pip-version-check -r tools/requirements-clients.txt && \
		cp tools/requirements-clients.txt build/venv-clients/requirements; }
	@build/venv-clients/bin/python -m pytest -p no:cacheprovider -q -ra tests/e2e/test_clients.py $(E2E_ARGS)

tables: build
	@tools/setup.sh --tests
	@cmp -s tools/requirements-oracles.txt build/venv-oracles/requirements || { rm -rf build/venv-oracles && \
		/usr/bin/python3 -m venv build/venv-oracles && \
		build/venv-oracles/bin/pip install -q --disable-pip-version-check -r tools/requirements-oracles.txt && \
		cp tools/requirements-oracles.txt build/venv-oracles/requirements; }
	@build/venv-oracles/bin/python tools/text_tables.py --build build > build/text-tables.md; \
		status=$$?; cat build/text-tables.md; exit $$status

test: check
	@$(MAKE) --no-print-directory cuda
	@$(MAKE) --no-print-directory e2e

asan tsan:
	@tools/setup.sh --check
	@cmake --preset $@ $(WERROR) >/dev/null
	@cmake --build build/$@ -j $(JOBS)
	@ctest --test-dir build/$@ --output-on-failure -j $(JOBS)

e2e-asan: asan
	@tools/setup.sh --tests
	@SLUICE_BUILD=$(CURDIR)/build/asan SLUICE_SLOW=1 .venv/bin/python -m pytest -p no:cacheprovider -q -ra tests/e2e $(E2E_ARGS)

fuzz:
	@tools/setup.sh --fuzz
	@cmake --preset fuzz >/dev/null
	@cmake --build build/fuzz -j $(JOBS)
	@tools/fuzz.sh build/fuzz $(FUZZ_SECONDS)

cuda:
	@tools/cuda.sh

format:
	@tools/setup.sh --check
	@tools/format.sh

bench: build
	@if [ -x bench/run.sh ]; then bench/run.sh; else echo "skip: bench: there is no bench/run.sh"; fi

clean:
	rm -rf build
