/* ledger.h: locks on the machine file, for the files that keep accounts in it. */
#ifndef FAKE_LEDGER_H
#define FAKE_LEDGER_H

#include "machine.h"

/* F_OFD_SETLK: 0 when it was done; F_OFD_GETLK: 1 when some other description holds a conflicting lock. */
int ledger_lock(int fd, int command, short type, off_t offset);
/* The lock for changes; false when it can not be had. */
bool ledger_enter(struct machine *machine);
void ledger_leave(struct machine *machine);
/* With the lock: this process has a slot. */
enum machine_status ledger_have_slot(struct machine *machine);
bool ledger_slot_alive(struct machine *machine, const struct fake_slot *slot);
/* A description of its own with a lock on the byte at `offset`, kept by the mapping that is returned: it outlives every
 * close(). NULL when it can not be had. */
void *ledger_hold(struct machine *machine, short type, off_t offset);
void ledger_let_go(void *mapping);

#endif /* FAKE_LEDGER_H */
