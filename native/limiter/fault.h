/*
 * fault.h: why an allocation can not be enforced.
 *
 * Whatever the fault, the interceptor answers the same way: it refuses work for that GPU. The distinction is for
 * tests and debuggers, and every value has its test.
 */
#ifndef FRACGPU_LIMITER_FAULT_H
#define FRACGPU_LIMITER_FAULT_H

enum fg_fault {
    FG_OK = 0,
    FG_PAGE_UNREADABLE = 1,   /* absent, no permission, not a regular file, not mappable */
    FG_PAGE_TRUNCATED = 2,
    FG_PAGE_MAGIC = 3,
    FG_PAGE_VERSION = 4,
    FG_PAGE_GENERATION = 5,   /* never seen even: the host died in its first write */
    FG_PAGE_VALUE = 6,        /* a field is out of range */
    FG_STATE_UNREADABLE = 7,
    FG_STATE_SHORT = 8,
    FG_STATE_INVALID = 9,     /* magic, version or sizes */
    FG_STATE_DEVICE = 10,     /* belongs to another GPU than its config page */
    FG_STATE_FULL = 11,       /* every slot is held by a live process */
    FG_PAGE_FOREIGN = 12      /* not mounted by the node, or not read-only: the container made it */
};

#endif
