# Strict mode: what /etc/ld.so.preload of a container names. See docs/dev/native.md.
#
#   libfracgpu-preload.so        SONAME libcuda.so.1: whoever asks for that name gets it, whatever lies in the search path
#   libfracgpu-preload-alias.so  SONAME libcuda.so, for those who ask without the number; it only needs the other one
#   ld.so.preload                names both, where Prepare mounts them

PRELOAD_OUT = $(OUT)/preload
PRELOAD_OBJECTS = $(OUT)/objects/preload
PRELOAD_CFLAGS = $(filter-out -g,$(CFLAGS)) -ffreestanding -fno-builtin -fno-stack-protector -fno-asynchronous-unwind-tables -fno-plt \
    -I$(PRELOAD_OBJECTS)
# As few segments as can be, and no library beside it: each is work for every process that starts.
PRELOAD_LDFLAGS = -shared -nostdlib -s -Wl,-z,noexecstack -Wl,-z,norelro -Wl,--hash-style=gnu -Wl,--build-id=none
PRELOAD_PLACE = /run/fracgpu/preload
PRELOAD_SYMBOLS = sed -n 's/^[A-Z]*(\(cu[A-Za-z0-9_]*\),.*/\1/p' fake/cuda_symbols.def | LC_ALL=C sort -u

.PHONY: preload
all: preload
preload: $(PRELOAD_OUT)/libfracgpu-preload.so $(PRELOAD_OUT)/libfracgpu-preload-alias.so $(PRELOAD_OUT)/ld.so.preload

# The names that drivers export are a fact about them; the model's list is where they are written down.
$(PRELOAD_OBJECTS)/stubs.inc $(PRELOAD_OBJECTS)/names.inc $(PRELOAD_OBJECTS)/count $(PRELOAD_OBJECTS)/exports.map &: \
    fake/cuda_symbols.def preload/rules.mk
	@mkdir -p $(@D)
	$(Q)$(PRELOAD_SYMBOLS) | sed 's/.*/    stub &/' > $(PRELOAD_OBJECTS)/stubs.inc
	$(Q)$(PRELOAD_SYMBOLS) | sed 's/.*/    "&\\0"/' > $(PRELOAD_OBJECTS)/names.inc
	$(Q)$(PRELOAD_SYMBOLS) | wc -l > $(PRELOAD_OBJECTS)/count
	$(Q)(echo '{ global:'; $(PRELOAD_SYMBOLS) | sed 's/$$/;/'; echo '  local: *; };') > $(PRELOAD_OBJECTS)/exports.map

$(PRELOAD_OUT)/libfracgpu-preload.so: preload/stubs.S preload/resolve.c $(PRELOAD_OBJECTS)/exports.map preload/rules.mk
	@mkdir -p $(@D)
	$(Q)$(CC) $(PRELOAD_CFLAGS) -DSYMBOL_COUNT=$$(cat $(PRELOAD_OBJECTS)/count) preload/stubs.S preload/resolve.c \
	    $(PRELOAD_LDFLAGS) -Wl,-soname,libcuda.so.1 -Wl,--version-script=$(PRELOAD_OBJECTS)/exports.map \
	    -o $@.$$$$ && mv $@.$$$$ $@

$(PRELOAD_OUT)/libfracgpu-preload-alias.so: interceptor/stub.c $(PRELOAD_OUT)/libfracgpu-preload.so
	@mkdir -p $(@D)
	$(Q)$(CC) $(PRELOAD_CFLAGS) $< $(PRELOAD_LDFLAGS) -Wl,-soname,libcuda.so -Wl,--no-as-needed \
	    $(PRELOAD_OUT)/libfracgpu-preload.so -o $@.$$$$ && mv $@.$$$$ $@

$(PRELOAD_OUT)/ld.so.preload: preload/rules.mk
	@mkdir -p $(@D)
	$(Q)echo '$(PRELOAD_PLACE)/libcuda.so.1 $(PRELOAD_PLACE)/libcuda.so' > $@.$$$$ && mv $@.$$$$ $@
