# The model GPU: libcuda.so.1 and libnvidia-ml.so.1 of a machine that exists in a file only.
#
# Included by native/Makefile; also works alone: make -f native/fake/rules.mk PYTHON=... OUT=build/native fake

FAKE_DIR := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
PYTHON ?= python3
OUT ?= $(FAKE_DIR)/../../build/native
Q ?= @
ifeq ($(origin CC),default)
CC = $(PYTHON) -m ziglang cc -target x86_64-linux-gnu.2.17
endif
CFLAGS ?= -std=c11 -O2 -g -fPIC -fvisibility=hidden -fno-sanitize=all -Wall -Wextra -Werror
SAN_CC ?= gcc -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all

FAKE_MACHINE_SOURCES := $(addprefix $(FAKE_DIR)/, ledger.c machine.c machine_shared.c procfs.c version.c visible.c)
FAKE_NVML_ONLY := $(sort $(wildcard $(FAKE_DIR)/nvml*.c))
FAKE_CUDA_SOURCES := $(filter-out $(FAKE_NVML_ONLY), $(sort $(wildcard $(FAKE_DIR)/*.c)))
FAKE_NVML_SOURCES := $(FAKE_MACHINE_SOURCES) $(FAKE_NVML_ONLY)
FAKE_INPUTS := $(wildcard $(FAKE_DIR)/*.h $(FAKE_DIR)/*.def $(FAKE_DIR)/*.map) $(FAKE_DIR)/rules.mk
FAKE_SELFTEST := $(FAKE_DIR)/../../tests/native/fake/selftest.c

# -Bsymbolic: the library's own references are its own, also when an interceptor of the same names was loaded first.
FAKE_LINK := -shared -Wl,-Bsymbolic -Wl,-z,nodelete -Wl,-z,defs -Wl,-z,noexecstack -lpthread

.PHONY: fake sanitize-fake sanitize
all: fake
fake: $(OUT)/fake/libcuda.so.1 $(OUT)/fake/libnvidia-ml.so.1
sanitize: sanitize-fake

# The driver versions that can be had, as CUDA numbers them. fake/ is FAKE_DEFAULT, fake-<version>/ are all of them. They
# differ in version.c and in the version script, which exports what cuda_symbols.def says that the version has.
FAKE_DEFAULT := 13000
FAKE_VERSIONS := 11080 12020 12090 13000 13050
FAKE_NAME_11080 := 11.8
FAKE_NAME_12020 := 12.2
FAKE_NAME_12090 := 12.9
FAKE_NAME_13000 := 13.0
FAKE_NAME_13050 := 13.5

FAKE_OBJECTS := $(OUT)/objects/fake
FAKE_CUDA_OBJECTS := $(patsubst $(FAKE_DIR)/%.c,$(FAKE_OBJECTS)/%.o,$(filter-out %/version.c,$(FAKE_CUDA_SOURCES)))
FAKE_NVML_OBJECTS := $(patsubst $(FAKE_DIR)/%.c,$(FAKE_OBJECTS)/%.o,$(filter-out %/version.c,$(FAKE_NVML_SOURCES)))

$(FAKE_OBJECTS)/%.o: $(FAKE_DIR)/%.c $(FAKE_INPUTS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -c $< -o $@.$$$$ && mv $@.$$$$ $@

# One version: $(1).
define FAKE_DRIVER
$(FAKE_OBJECTS)/version-$(1).o: $(FAKE_DIR)/version.c $(FAKE_INPUTS)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) -DFAKE_CUDA_VERSION=$(1) -c $$< -o $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

$(FAKE_OBJECTS)/libcuda-$(1).map: $(FAKE_DIR)/cuda_symbols.def
	@mkdir -p $$(@D)
	$$(Q)sed -n 's/^[A-Z]*(\(cu[A-Za-z0-9_]*\), [A-Za-z0-9_]*, \([0-9]*\), [01])$$$$/\1 \2/p' $$< | \
	    awk 'BEGIN {print "{ global:"} $$$$2 <= $(1) {print "    " $$$$1 ";"} END {print "  local: *; };"}' \
	    > $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

$(OUT)/fake-$(FAKE_NAME_$(1))/libcuda.so.1: $(FAKE_CUDA_OBJECTS) $(FAKE_OBJECTS)/version-$(1).o \
    $(FAKE_OBJECTS)/libcuda-$(1).map
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $(FAKE_CUDA_OBJECTS) $(FAKE_OBJECTS)/version-$(1).o $(FAKE_LINK) -Wl,-soname,libcuda.so.1 \
	    -Wl,--version-script=$(FAKE_OBJECTS)/libcuda-$(1).map -o $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

$(OUT)/fake-$(FAKE_NAME_$(1))/libnvidia-ml.so.1: $(FAKE_NVML_OBJECTS) $(FAKE_OBJECTS)/version-$(1).o
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $(FAKE_NVML_OBJECTS) $(FAKE_OBJECTS)/version-$(1).o $(FAKE_LINK) \
	    -Wl,-soname,libnvidia-ml.so.1 -Wl,--version-script=$(FAKE_DIR)/libnvidia-ml.map \
	    -o $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

fake: $(OUT)/fake-$(FAKE_NAME_$(1))/libcuda.so.1 $(OUT)/fake-$(FAKE_NAME_$(1))/libnvidia-ml.so.1
endef

$(foreach version,$(FAKE_VERSIONS),$(eval $(call FAKE_DRIVER,$(version))))

# Files of their own: some that use the model copy them by their place.
$(OUT)/fake/%.so.1: $(OUT)/fake-$(FAKE_NAME_$(FAKE_DEFAULT))/%.so.1
	@mkdir -p $(@D)
	$(Q)cp $< $@.$$$$ && mv $@.$$$$ $@

# The model's own program, linked with its sources so that the sanitizers see every access. Run by the target.
$(OUT)/sanitize/fake-selftest: $(FAKE_SELFTEST) $(FAKE_CUDA_SOURCES) $(FAKE_INPUTS)
	@mkdir -p $(@D)
	$(Q)$(SAN_CC) -std=c11 -O1 -g -Wall -Wextra -Werror -I$(FAKE_DIR) $(FAKE_SELFTEST) $(FAKE_CUDA_SOURCES) -lpthread \
	    -o $@.$$$$ && mv $@.$$$$ $@

sanitize-fake: $(OUT)/sanitize/fake-selftest
	$(Q)$<
