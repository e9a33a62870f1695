/* physical.h: physical memory with a handle, and what can be done to it outside vmm.c. */
#ifndef FAKE_PHYSICAL_H
#define FAKE_PHYSICAL_H

#include "driver.h"
#include "share.h"

struct physical {
    struct physical *next;
    CUmemHandle handle;
    size_t size;
    int device;
    CUmemAllocationProp properties;
    uint8_t *bytes;
    struct share *share;                  /* NULL while no other process can hold it */
    struct multicast *multicast;          /* not memory, but a team of devices that memory is bound to */
    int handle_references;                /* create, retain, minus release: 0 makes the handle invalid */
    int mappings;                         /* mappings and bindings: the memory lives until there is neither */
};

/* NULL for a handle that is not valid. */
struct physical *physical_find(CUmemHandle handle);
/* Give `content` a new handle with one reference. */
CUresult physical_add(const struct physical *content, CUmemHandle *handle);
/* One reference of either kind fewer has been noted: the last one ends the memory. */
void physical_unused(struct physical *physical);
/* Move it to where other processes can hold it. */
CUresult physical_share(struct physical *physical);

/* Memory that a sparse array's tiles may be mapped onto: CUDA_ERROR_INVALID_VALUE unless it is a tile pool of `device`
 * with `size` bytes from `offset` on. Each hold is a mapping of it. */
CUresult physical_for_tiles(struct physical **out, CUmemHandle handle, int device, size_t offset, size_t size);
void physical_hold(struct physical *physical);
void physical_drop(struct physical *physical);

/* multicast.c: the last reference to a multicast object is gone. */
void multicast_dispose(struct multicast *multicast);

#endif /* FAKE_PHYSICAL_H */
