# Shortcuts; the build itself is CMake (CMakePresets.json).
MODEL ?=
PORT ?= 8000
JOBS ?= $(shell nproc)

.PHONY: setup build run test check e2e asan tsan fuzz format bench cuda clean

setup:
	@tools/setup.sh

build: setup
	@cmake --preset release -DSLUICE_WERROR=$(if $(CI),ON,OFF) >/dev/null
	@cmake --build build -j $(JOBS)

clean:
	rm -rf build
