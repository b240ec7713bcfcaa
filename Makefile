# SPDX-License-Identifier: BSD-2-Clause
# Doors to the meson build. The build itself is meson.build; see CONTRIBUTING.md.

PREFIX ?= /usr/local

.PHONY: all deps check install clean
all: build/build.ninja
	ninja -C build

build/build.ninja:
	meson setup build --buildtype=release --prefix=$(PREFIX)

# What is missing is named; building or a single test may well do without it.
deps:
	@tests/deps.sh

check:
	-@tests/deps.sh
	@tests/check.sh

# A target for each script that is there: tests/<name>.sh or tests/<name>/run.sh, given the release build.
define script_target
.PHONY: $(1)
$(1):
	-@tests/deps.sh
	@$$(MAKE) --no-print-directory all
	@$(2) build
endef
$(foreach name,demo bench fuzz soak,$(foreach script,$(wildcard tests/$(name).sh tests/$(name)/run.sh),\
	$(eval $(call script_target,$(name),$(script)))))

# Looks for what is new, where a check repeats itself.
fuzz: export SPINDLE_FUZZ_SEED ?= 0

# A whole Debian boots from a VHDX, in the guest lab: minutes, and a download.
.PHONY: guest-debian
guest-debian: all
	@tests/guest/debian.sh build

install: all
	meson install -C build --no-rebuild

clean:
	rm -rf build build-release build-check build-tsan build-fuzz build-seed
