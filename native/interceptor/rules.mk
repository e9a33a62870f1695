# The shims: container/ and standalone/, each with libcuda.so.1 and libnvidia-ml.so.1.
#
# DT_NEEDED is the path of the real library: a link against a stub whose SONAME is that path makes it so.

INTERCEPTOR_HEADERS = $(wildcard interceptor/*.h interceptor/*.def) interceptor/rules.mk $(LIMITER_HEADERS)
INTERCEPTOR_ALL = $(patsubst interceptor/%.c,%,$(sort $(wildcard interceptor/*.c)))
# Both shims: exports, real, namespace, source_common. nvml*.c are the NVML shim's, what is left is the CUDA shim's.
INTERCEPTOR_NVML = exports real namespace source_common uuid $(filter nvml%,$(INTERCEPTOR_ALL))
INTERCEPTOR_CUDA = $(filter-out nvml% source_container source_standalone stub uuid,$(INTERCEPTOR_ALL))
INTERCEPTOR_container = source_container
INTERCEPTOR_standalone = source_standalone
INTERCEPTOR_ONLY_standalone_cuda = uuid

REAL_DIRECTORY_container = /run/fracgpu/driver
REAL_DIRECTORY_standalone = $$ORIGIN/driver
# -Bsymbolic: routes lead to the shim's own functions, also when a driver of the same names was loaded before it.
SHIM_LDFLAGS = -shared -Wl,-Bsymbolic -Wl,-z,nodelete -Wl,-z,defs -Wl,-z,noexecstack -Wl,-z,relro -Wl,--no-undefined-version

# $(1) build, $(2) cuda or nvml, $(3) library name, $(4) extra flags, $(5) sources, $(6) limiter sources
define SHIM
$(OUT)/objects/$(1)-$(2)/%.o: interceptor/%.c $$(INTERCEPTOR_HEADERS)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) -D_GNU_SOURCE $(4) '-DFRACGPU_LIBRARY="$(3)"' -c $$< -o $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

$(OUT)/stubs/$(1)/$(3): interceptor/stub.c
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) -fvisibility=default -shared '-Wl,-soname,$$(REAL_DIRECTORY_$(1))/$(3)' $$< -o $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

SHIM_OBJECTS_$(1)_$(2) = $(5:%=$(OUT)/objects/$(1)-$(2)/%.o) $(6:%=$(OUT)/objects/limiter/%.o)

$(OUT)/$(1)/$(3): $$(SHIM_OBJECTS_$(1)_$(2)) $(OUT)/stubs/$(1)/$(3) $(OUT)/objects/$(2).map
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) $$(SHIM_LDFLAGS) -Wl,-soname,$(3) -Wl,--version-script=$(OUT)/objects/$(2).map \
	    $$(SHIM_OBJECTS_$(1)_$(2)) -Wl,--no-as-needed $(OUT)/stubs/$(1)/$(3) -Wl,--as-needed -ldl -o $$@.$$$$$$$$ && mv $$@.$$$$$$$$ $$@

interceptor: $(OUT)/$(1)/$(3)

# A shim that lacks one hook: make mutant-$(1)-$(2) HOOK=<symbol> MUTANT=<file>
mutant-$(1)-$(2): $(OUT)/$(1)/$(3)
	@mkdir -p $$(dir $$(MUTANT))
	$$(Q)$$(CC) $$(CFLAGS) -D_GNU_SOURCE $(4) '-DFRACGPU_LIBRARY="$(3)"' -DFRACGPU_MUTANT \
	    -Dfg_hook_$$(HOOK)=fg_forward_$$(HOOK) -c interceptor/exports.c -o $$(MUTANT).o
	$$(Q)$$(CC) $$(CFLAGS) $$(SHIM_LDFLAGS) -Wl,-soname,$(3) -Wl,--version-script=$(OUT)/objects/$(2).map \
	    $$(filter-out %/exports.o,$$(SHIM_OBJECTS_$(1)_$(2))) $$(MUTANT).o \
	    -Wl,--no-as-needed $(OUT)/stubs/$(1)/$(3) -Wl,--as-needed -ldl -o $$(MUTANT)
	@rm -f $$(MUTANT).o

.PHONY: mutant-$(1)-$(2)
endef

# The version scripts export what hooks.def names and hide the rest.
$(OUT)/objects/cuda.map: interceptor/hooks.def
	@mkdir -p $(@D)
	$(Q)(echo '{ global:'; sed -n 's/^HOOK([a-z]*, \(cu[A-Za-z0-9_]*\),.*/    \1;/p' $<; echo '  local: *; };') > $@.$$$$ && mv $@.$$$$ $@

$(OUT)/objects/nvml.map: interceptor/hooks.def interceptor/nvml_refused.def
	@mkdir -p $(@D)
	$(Q)(echo '{ global:'; sed -n 's/^HOOK([a-z]*, \(nvml[A-Za-z0-9_]*\),.*/    \1;/p' $<; \
	    sed -n 's/^REFUSED(\(nvml[A-Za-z0-9_]*\))/    \1;/p' interceptor/nvml_refused.def; echo '  local: *; };') > $@.$$$$ && mv $@.$$$$ $@

INTERCEPTOR_NVML_LIMITER = feedback page usage ledger region slot_lock

$(foreach build,container standalone,\
  $(eval $(call SHIM,$(build),cuda,libcuda.so.1,,$(INTERCEPTOR_CUDA) $(INTERCEPTOR_$(build)) $(INTERCEPTOR_ONLY_$(build)_cuda),$(LIMITER)))\
  $(eval $(call SHIM,$(build),nvml,libnvidia-ml.so.1,-DFRACGPU_SHIM_NVML,$(INTERCEPTOR_NVML) $(INTERCEPTOR_$(build)),$(INTERCEPTOR_NVML_LIMITER))))

.PHONY: interceptor
all: interceptor

# `make sanitize`: the standalone shims again, by another compiler and under AddressSanitizer and
# UndefinedBehaviorSanitizer. (-z defs would ask for the sanitizers' own symbols.)
.PHONY: sanitize-interceptor
sanitize-interceptor:
	@$(MAKE) --no-print-directory OUT=$(OUT)/sanitize CC='$(SAN_CC)' SHIM_LDFLAGS='-shared -Wl,-z,nodelete' \
	    CFLAGS='$(SAN_CFLAGS) -fPIC -fvisibility=hidden' \
	    $(OUT)/sanitize/standalone/libcuda.so.1 $(OUT)/sanitize/standalone/libnvidia-ml.so.1

# And the CUDA shim under ThreadSanitizer; the NVML shim keeps nothing that threads could share.
.PHONY: tsan-interceptor
tsan-interceptor:
	@$(MAKE) --no-print-directory OUT=$(OUT)/tsan CC='$(TSAN_CC)' SHIM_LDFLAGS='-shared -Wl,-z,nodelete' \
	    CFLAGS='$(SAN_CFLAGS) -fPIC -fvisibility=hidden' $(OUT)/tsan/standalone/libcuda.so.1

sanitize: sanitize-interceptor tsan-interceptor
