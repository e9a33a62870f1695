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

FAKE_MACHINE_SOURCES := $(addprefix $(FAKE_DIR)/, ledger.c machine.c procfs.c visible.c)
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

$(OUT)/fake/libcuda.so.1: $(FAKE_CUDA_SOURCES) $(FAKE_INPUTS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(FAKE_CUDA_SOURCES) $(FAKE_LINK) -Wl,-soname,libcuda.so.1 \
	    -Wl,--version-script=$(FAKE_DIR)/libcuda.map -o $@.$$$$ && mv $@.$$$$ $@

$(OUT)/fake/libnvidia-ml.so.1: $(FAKE_NVML_SOURCES) $(FAKE_INPUTS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(FAKE_NVML_SOURCES) $(FAKE_LINK) -Wl,-soname,libnvidia-ml.so.1 \
	    -Wl,--version-script=$(FAKE_DIR)/libnvidia-ml.map -o $@.$$$$ && mv $@.$$$$ $@

# The model's own program, linked with its sources so that the sanitizers see every access. Run by the target.
$(OUT)/sanitize/fake-selftest: $(FAKE_SELFTEST) $(FAKE_CUDA_SOURCES) $(FAKE_INPUTS)
	@mkdir -p $(@D)
	$(Q)$(SAN_CC) -std=c11 -O1 -g -Wall -Wextra -Werror -I$(FAKE_DIR) $(FAKE_SELFTEST) $(FAKE_CUDA_SOURCES) -lpthread \
	    -o $@.$$$$ && mv $@.$$$$ $@

sanitize-fake: $(OUT)/sanitize/fake-selftest
	$(Q)$<
