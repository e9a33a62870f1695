# Probes: small programs that use a GPU like real ones do. Included by native/Makefile; also works alone.

PROBE_DIR := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
PYTHON ?= python3
OUT ?= $(PROBE_DIR)/../../build/native
ifeq ($(origin CC),default)
CC = $(PYTHON) -m ziglang cc -target x86_64-linux-gnu.2.17
endif
Q ?= @
CFLAGS ?= -std=c11 -O2 -g -fPIC -fvisibility=hidden -fno-sanitize=all -Wall -Wextra -Werror

PROBE_PROGRAMS := $(addprefix $(OUT)/probe/, fracgpu-climb fracgpu-hold fracgpu-view)
PROBE_HEADERS := $(wildcard $(PROBE_DIR)/*.h)
PROBE_MEMORY := $(addprefix $(PROBE_DIR)/, memory_api.c driver_api.c json.c)

.PHONY: probe
probe: $(PROBE_PROGRAMS)
all: probe

$(OUT)/probe/fracgpu-climb: $(PROBE_DIR)/climb.c $(PROBE_MEMORY)
$(OUT)/probe/fracgpu-hold: $(PROBE_DIR)/hold.c $(PROBE_MEMORY)
$(OUT)/probe/fracgpu-view: $(addprefix $(PROBE_DIR)/, view.c view_cuda.c view_nvml.c json.c)

$(PROBE_PROGRAMS): $(PROBE_HEADERS) $(PROBE_DIR)/rules.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(filter %.c,$^) -ldl -o $@.$$$$ && mv $@.$$$$ $@
