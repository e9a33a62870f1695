/* procfs.h: what /proc tells about a process. `pid` is the name of its directory there: a number, or "self". */
#ifndef FAKE_PROCFS_H
#define FAKE_PROCFS_H

#include <stdint.h>

/* Field 22 of /proc/<pid>/stat, in clock ticks since boot as the reader's time namespace counts them; 0: unknown. */
uint64_t procfs_start_time(const char *pid);

/* The inode that names its pid namespace; 0 when it cannot be told. Of another user's process that takes
 * CAP_SYS_PTRACE, as namespaces(7) says. */
uint64_t procfs_pid_namespace(const char *pid);

/* Its id in the innermost pid namespace that it is in; -1: unknown. Open to everybody, like its start time. */
int procfs_innermost_pid(const char *pid);

#endif /* FAKE_PROCFS_H */
