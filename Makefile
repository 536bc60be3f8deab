# The commands of a developer; `make` alone lists them. Each target first installs its needs, also on a bare Debian.
#
# Environments: .venv holds amistream itself. ministack, the S3 and EC2 of the demo and the tests, needs a botocore
# that aiobotocore does not accept, so it has its own environment. pip-audit and the tools of `make dist` have one, too.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# Debian has mke2fs and mkfs.xfs in directories that are in the PATH of root only.
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= python3
ARGS ?=
KEEP ?=
VENV := .venv
MINISTACK := .venv-ministack
AUDIT := .venv-audit
MANUAL := .venv-docs
DIST := .venv-dist
EXAMPLES := .venv-examples
BIN := $(VENV)/bin
# A third of the tests' time is waiting for endpoints and processes: three workers on two cores.
WORKERS = $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))

# A command, or a file with its path: the Debian package.
FOR_DEMO := python3:python3 openssl:openssl mke2fs:e2fsprogs cmp:diffutils
FOR_TEST := $(FOR_DEMO) curl:curl mandoc:mandoc mkfs.xfs:xfsprogs losetup:mount fsfreeze:util-linux qemu-img:qemu-utils \
	partclone.extfs:partclone sfdisk:fdisk sgdisk:gdisk grub-fstest:grub-common
# The only program of that package, which is for PCs alone: tests that need it are skipped elsewhere.
FOR_TEST += $(if $(filter x86_64,$(shell uname -m)),/usr/lib/grub/i386-pc/grub-bios-setup:grub-pc-bin)
FOR_BOOT := $(FOR_TEST) qemu-system-x86_64:qemu-system-x86 cpio:cpio mmdebstrap:mmdebstrap mkfs.vfat:dosfstools
FOR_BOOT += systemd-nspawn:systemd-container
FOR_WEB := $(FOR_TEST) chromium:chromium
FOR_DIST := python3:python3 gcc:gcc readelf:binutils xz:xz-utils
FOR_DIST += /usr/lib/$(shell uname -m)-linux-gnu/libc.a:libc6-dev \
	aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/lib/libc.a:libc6-dev-arm64-cross
FOR_DIST_TEST := $(FOR_TEST) $(FOR_DIST) mmdebstrap:mmdebstrap strace:strace rpm:rpm rpm2cpio:rpm2cpio cpio:cpio \
	qemu-aarch64-static:qemu-user-static systemd-analyze:systemd
FOR_BENCH := $(FOR_TEST) pigz:pigz igzip:isal rclone:rclone

.PHONY: help demo say-duration test boot-test web-test examples-test coverage bench lint audit docs dist dist-test dist-lock clean
.PHONY: system-demo system-test system-boot system-web system-bench system-dist system-dist-test

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: say-duration $(VENV)/.installed $(MINISTACK)/.installed | system-demo ## bundle and check an ext4 volume here (KEEP=1: keep it running)
	@KEEP=$(KEEP) docs/demo.sh

say-duration:
	@if [[ -e $(VENV)/.installed && -e $(MINISTACK)/.installed ]]; then
	    echo 'this takes about half a minute'
	else
	    echo 'this takes one to four minutes: it installs what it needs first; later half a minute'
	fi

test: lint $(MINISTACK)/.installed | system-test ## lint, then all tests (ARGS='-k name' for some)
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

boot-test: $(VENV)/.installed-dev $(MINISTACK)/.installed dist/.x86_64 | system-boot ## start unbundled disks with QEMU (ARGS='-m boot': a whole Debian, too)
	@$(BIN)/python -m pytest -m 'boot and not slow' --log-cli-level=INFO --durations=0 --durations-min=1 \
		-o tmp_path_retention_policy=failed tests/boot $(ARGS)

web-test: $(VENV)/.installed-browser | system-web ## look at the page with Chromium; screenshots in build/screenshots
	@$(BIN)/python -m pytest -m browser --log-cli-level=INFO tests/web $(ARGS)

examples-test: $(EXAMPLES)/.installed $(VENV)/.installed-dev ## check each example with its own tool: promtool, packer, ansible ...
	@export PATH="$$PWD/$(EXAMPLES)/bin:$$PWD/$(EXAMPLES)/debian/usr/bin:$$PATH"
	$(BIN)/python -m pytest -m examples -rs tests/repository/test_examples.py $(ARGS)

coverage: lint $(MINISTACK)/.installed | system-test ## the same with branch coverage (a third slower)
	@data=$$(mktemp -d)
	trap 'rm -rf "$$data"' EXIT
	# Its own data file, so that two runs at a time, and daemons that tests start, do not mix their figures.
	COVERAGE_FILE="$$data/coverage" $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term $(ARGS)

lint: $(VENV)/.installed-dev ## ruff and mypy
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || { echo 'not formatted: $(BIN)/ruff format .' >&2; exit 1; }
	$(BIN)/mypy

audit: $(AUDIT)/.installed $(VENV)/.installed ## check the installed packages, and those of `make dist`, for known vulnerabilities
	@$(BIN)/pip freeze --exclude-editable >"$(AUDIT)/installed.txt"
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement "$(AUDIT)/installed.txt" $(ARGS)
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement config/dist/lock/wheels.txt $(ARGS)
	$(BIN)/python -m config.dist audit

bench: $(VENV)/.installed-bench | system-bench ## the benchmarks (ARGS=--list shows them)
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(MANUAL)/.installed ## the manual as a site, in build/manual/site; a broken link is an error
	@rm -rf build/manual && mkdir -p build/manual
	cp -r docs build/manual/docs && cp config/manual.css build/manual/docs && cp config/manual.yml build/manual/mkdocs.yml
	$(MANUAL)/bin/zensical build --strict --config-file build/manual/mkdocs.yml

dist: $(DIST)/.installed ## build installations for hosts without Python into dist/ (ARGS='--arch x86_64' for one)
	@$(DIST)/bin/python -m config.dist build $(ARGS)

# The package that the boot tests install, built again only if its contents have changed.
dist/.x86_64: $(shell find service config -type f -not -name '*.pyc') pyproject.toml $(DIST)/.installed
	@$(DIST)/bin/python -m config.dist build --arch x86_64
	touch $@

dist-test: $(VENV)/.installed-dev $(MINISTACK)/.installed dist | system-dist-test ## use those installations in bare systems, which takes minutes
	@$(BIN)/python -m pytest -m dist --log-cli-level=INFO -o tmp_path_retention_policy=failed tests/dist

dist-lock: $(DIST)/.installed ## pin the newest versions of all that `make dist` packs
	@$(DIST)/bin/python -m config.dist lock

clean: ## remove everything that these targets made
	@rm -rf $(VENV) $(MINISTACK) $(AUDIT) $(MANUAL) $(DIST) $(EXAMPLES) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml | system-demo
	@echo 'installing amistream into $(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	# Compiled before the first start: some tests start a command where nothing can be written.
	$(BIN)/python -m compileall -q service
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed | system-test
	@echo 'installing the test and lint tools into $(VENV)'
	$(BIN)/pip install --quiet --editable '.[test,lint]'
	touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev | system-web
	@echo 'installing the driver of the browser into $(VENV)'
	$(BIN)/pip install --quiet --editable '.[browser]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed | system-bench
	@echo 'installing the chart tools into $(VENV)'
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

$(MINISTACK)/.installed: $(firstword $(MAKEFILE_LIST)) | system-demo
	@echo 'installing ministack into $(MINISTACK)'
	$(PYTHON) -m venv $(MINISTACK)
	$(MINISTACK)/bin/pip install --quiet 'ministack>=1.5.33,<2'
	touch $@

$(AUDIT)/.installed: $(firstword $(MAKEFILE_LIST)) | system-demo
	@echo 'installing pip-audit into $(AUDIT)'
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet 'pip-audit>=2.9,<3'
	touch $@

$(MANUAL)/.installed: $(firstword $(MAKEFILE_LIST)) | system-demo
	@echo 'installing the generator of the manual into $(MANUAL)'
	$(PYTHON) -m venv $(MANUAL)
	$(MANUAL)/bin/pip install --quiet 'zensical>=0.0.73,<1'
	touch $@

# promtool, packer and the schema of cloud-init are taken out of Debian's packages, which are not installed: that of promtool
# would start a server.
$(EXAMPLES)/.installed: $(firstword $(MAKEFILE_LIST)) | system-demo
	@echo 'installing the tools that check the examples into $(EXAMPLES)'
	$(PYTHON) -m venv $(EXAMPLES)
	$(EXAMPLES)/bin/pip install --quiet 'ansible-core>=2.18,<3' 'check-jsonschema>=0.37,<1' 'yamllint>=1.37,<2'
	(cd $(EXAMPLES) && apt-get download -qq prometheus packer cloud-init) || \
		echo 'no packages of Debian here: checks by promtool, packer and cloud-init are skipped' >&2
	for package in $$(find $(EXAMPLES) -maxdepth 1 -name '*.deb'); do
		dpkg-deb --extract "$$package" $(EXAMPLES)/debian
		rm "$$package"
	done
	touch $@

$(DIST)/.installed: config/dist/lock/tools.txt | system-dist
	@echo 'installing the tools of `make dist` into $(DIST)'
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/pip install --quiet --require-hashes --requirement $<
	touch $@

system-demo: ; @$(call need,$(FOR_DEMO))
system-test: ; @$(call need,$(FOR_TEST))
system-boot: ; @$(call need,$(FOR_BOOT))
system-web: ; @$(call need,$(FOR_WEB))
system-bench: ; @$(call need,$(FOR_BENCH))
system-dist: ; @$(call need,$(FOR_DIST))
system-dist-test: ; @$(call need,$(FOR_DIST_TEST))

# Installs the missing packages of $(1) if run as root, else prints the command.
define need
missing=()
for pair in $(1); do
    command -v "$${pair%%:*}" >/dev/null || [[ -e $${pair%%:*} ]] || missing+=("$${pair##*:}")
done
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if (( $${#missing[@]} )); then
    install="apt-get install -y --no-install-recommends $${missing[*]}"
    if [[ $$(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "missing on this machine: $${missing[*]}; as root: $$install" >&2
        exit 1
    fi
    echo "installing $${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && $$install -qq >/dev/null
fi
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$(PYTHON) is older than 3.11; give a newer one: make PYTHON=python3.12" >&2
    exit 1
}
endef
