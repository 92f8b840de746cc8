# `make test` and `make demo` do everything on a fresh Debian 12; a second run starts in seconds.
PYTHON ?= python3
PACKAGES = python3-venv python3-dev gcc libc6-dev libpcap-dev pkg-config iproute2 procps
test test-long: PACKAGES += groff-base strace sudo systemd spin clang-14 libclang-rt-14-dev libpcap0.8 \
  tshark ngrep tcpstat p0f softflowd argus-server argus-client arpwatch darkstat
test test-long bench: PACKAGES += tcpdump libdpdk-dev valgrind ethtool
export PATH := $(CURDIR)/.venv/bin:$(PATH)
C_FILES = $(shell find fal tests bench -name '*.[ch]')
# Directories too: they change when a file comes or goes.
SOURCES := $(shell find fal hugepages -not -path '*/__pycache__*') meson.build meson.options pyproject.toml
# What pip is to install, read where it is written down.
NEEDS = import tomllib; t = tomllib.load(open("pyproject.toml", "rb")); p = t["project"]; \
  print(*t["build-system"]["requires"], *p["dependencies"], *p["optional-dependencies"]["dev"])

.PHONY: build test test-long bench bench-report demo lint format clean packages
build: .venv/installed
packages:
	@[ "$$(dpkg-query -W -f '$${db:Status-Status}\n' $(PACKAGES) 2>&1 | grep -cx installed)" -ge \
	  $(words $(PACKAGES)) ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y $(PACKAGES); }
.venv/ready: pyproject.toml | packages
	[ -x .venv/bin/pip ] || $(PYTHON) -m venv .venv
	.venv/bin/pip install -q $$(.venv/bin/python -c '$(NEEDS)')
	@touch $@
# Without isolation, so that the build directory stays valid and a rebuild takes seconds.
.venv/installed: $(SOURCES) .venv/ready | packages
	@mkdir -p build/wheel
	.venv/bin/pip install -q --no-build-isolation --no-deps \
	  --config-settings=build-dir=build/wheel \
	  --config-settings=setup-args=-Dwerror=$(if $(CI),true,false) .
	@touch $@
test test-long: lint
	.venv/bin/pytest -m "$(if $(filter test,$@),not )long"
# One that is named, or all: make bench B=ring
bench: build
	.venv/bin/python bench/run.py $(B)
# docs/benchmarks.md, of what was measured last.
bench-report: build
	.venv/bin/python bench/report.py
demo: build
	.venv/bin/python demo/demo.py
lint: build
	ruff check && ruff format --check && mypy && clang-format --dry-run -Werror $(C_FILES)
format: build
	ruff check --fix; ruff format && clang-format -i $(C_FILES)
clean:
	rm -rf build .venv
