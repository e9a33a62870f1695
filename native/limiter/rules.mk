# The limiter: objects that the shims link, and a sanitized shared library for its own tests.

LIMITER = attach feedback gate group ledger page reaper region reserve share_lock slot_lock table usage
LIMITER_HEADERS = $(wildcard limiter/*.h) abi/fracgpu_abi.h limiter/rules.mk Makefile

$(OUT)/objects/limiter/%.o: limiter/%.c $(LIMITER_HEADERS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -D_GNU_SOURCE -c $< -o $@.$$$$ && mv $@.$$$$ $@

# `make sanitize`: the limiter's unit tests under AddressSanitizer and UndefinedBehaviorSanitizer.
LIMITER_SOURCES = $(LIMITER:%=limiter/%.c)
TEST_PROGRAMS = ../tests/native/programs
SAN_CFLAGS = -std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -Ilimiter

LIMITER_UNITS = $(wildcard $(TEST_PROGRAMS)/limiter_units*.c)

$(OUT)/sanitize/limiter_units: $(LIMITER_UNITS) $(TEST_PROGRAMS)/limiter_units.h $(LIMITER_SOURCES) $(LIMITER_HEADERS)
	@mkdir -p $(@D)
	$(Q)$(SAN_CC) $(SAN_CFLAGS) $(LIMITER_UNITS) $(LIMITER_SOURCES) -lpthread -o $@.$$$$ && mv $@.$$$$ $@

# The same under ThreadSanitizer.
$(OUT)/tsan/limiter_units: $(LIMITER_UNITS) $(TEST_PROGRAMS)/limiter_units.h $(LIMITER_SOURCES) $(LIMITER_HEADERS)
	@mkdir -p $(@D)
	$(Q)$(TSAN_CC) $(SAN_CFLAGS) $(LIMITER_UNITS) $(LIMITER_SOURCES) -lpthread -o $@.$$$$ && mv $@.$$$$ $@

.PHONY: sanitize
sanitize: $(OUT)/sanitize/limiter_units $(OUT)/tsan/limiter_units

# For tests that drive the limiter from Python, and for its mutant: DEFINES, FILE and MAIN say what.
$(OUT)/test/liblimiter.so: $(LIMITER_SOURCES) $(LIMITER_HEADERS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -fvisibility=hidden,$(CFLAGS)) -D_GNU_SOURCE -shared $(LIMITER_SOURCES) -o $@.$$$$ && mv $@.$$$$ $@

.PHONY: limiter-shared limiter-program
limiter-shared: $(OUT)/test/liblimiter.so

limiter-program:
	$(Q)$(CC) $(CFLAGS) -D_GNU_SOURCE -Ilimiter $(DEFINES) $(MAIN) $(LIMITER_SOURCES) -lpthread -o $(FILE)
