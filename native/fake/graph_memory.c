/*
 * graph_memory.c: the memory behind allocation nodes.
 *
 * An allocation node has its address from the start, and nothing behind it. When a graph is uploaded or launched into a
 * stream, physical pages are put behind all its addresses: pages that the stream keeps from graphs before, as graphs of
 * one stream never run at the same time, or new ones. Pages stay with the stream until they are trimmed, and those that
 * an allocation lives in that was not freed are nobody else's. A device's graph memory is what all its streams keep.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#define GROWTH (32 * MIB)
#define PAGES(bytes) (ROUND_UP(bytes, PHYSICAL_GRANULE) / PHYSICAL_GRANULE)

/* What one stream keeps on one device. */
struct cache {
    struct cache *next;
    int device;
    uint64_t stream;
    size_t reserved;
    size_t live;                          /* of it behind allocations that have not been freed */
};

/* A run of addresses of one graph. */
struct arena {
    struct arena *next;
    int device;
    CUdeviceptr start;
    size_t size, used;
    uint8_t *bytes;
    struct cache *cache;                  /* where its pages come from */
    unsigned *live;                       /* by page: allocations that live there */
};

/* What an allocation node has of an arena; several have the same when each runs after the free of the one before. */
struct place {
    struct place *next;
    struct arena *arena;
    size_t offset, size;
    CUgraphNode vacated_by;
};

struct graph_memory {
    struct graph_memory *next;
    int references;
    bool executable;                      /* an executable graph exists */
    size_t live;                          /* allocations */
    struct cache *mapped;                 /* the stream that the graph was last mapped for, NULL: none */
    struct arena *arenas;
    struct place *places;
};

static struct graph_memory *memories;
static struct cache *caches;
static struct { size_t used_high, reserved_high; } highs[FAKE_GPU_COUNT_MAX];

static size_t footprint(const struct graph_memory *memory, int device)
{
    size_t bytes = 0;
    for (const struct arena *arena = memory->arenas; arena != NULL; arena = arena->next) {
        bytes += arena->device == device ? PAGES(arena->used) * PHYSICAL_GRANULE : 0;
    }
    return bytes;
}

static size_t reserved_on(int device)
{
    size_t bytes = 0;
    for (const struct cache *cache = caches; cache != NULL; cache = cache->next) {
        bytes += cache->device == device ? cache->reserved : 0;
    }
    return bytes;
}

/* Mapped by at least one graph: of each stream as much as its largest graph has, and what lives. */
static size_t used_on(int device)
{
    size_t bytes = 0;
    for (const struct cache *cache = caches; cache != NULL; cache = cache->next) {
        size_t mapped = cache->device == device ? cache->live : 0;
        for (const struct graph_memory *memory = memories; memory != NULL && cache->device == device;
             memory = memory->next) {
            bool counts = memory->mapped != NULL && memory->mapped->stream == cache->stream && memory->executable;
            size_t size = counts ? footprint(memory, device) : 0;
            mapped = size > mapped ? size : mapped;
        }
        bytes += mapped;
    }
    return bytes;
}

static void note_highs(int device)
{
    size_t used = used_on(device), reserved = reserved_on(device);
    highs[device].used_high = used > highs[device].used_high ? used : highs[device].used_high;
    highs[device].reserved_high = reserved > highs[device].reserved_high ? reserved : highs[device].reserved_high;
}

static CUresult trim(int device)
{
    for (struct cache *cache = caches; cache != NULL; cache = cache->next) {
        if (cache->device == device && cache->reserved > cache->live) {
            device_discharge(device, cache->reserved - cache->live);
            cache->reserved = cache->live;
        }
    }
    for (struct graph_memory *memory = memories; memory != NULL; memory = memory->next) {
        if (memory->live == 0) {
            memory->mapped = NULL;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult find_cache(int device, uint64_t stream, struct cache **out)
{
    struct cache *cache = caches;
    while (cache != NULL && (cache->device != device || cache->stream != stream)) {
        cache = cache->next;
    }
    if (cache == NULL) {
        cache = calloc(1, sizeof *cache);
        REQUIRE(cache != NULL, CUDA_ERROR_OUT_OF_MEMORY);
        *cache = (struct cache){ .next = caches, .device = device, .stream = stream };
        caches = cache;
    }
    *out = cache;
    return CUDA_SUCCESS;
}

/* In blocks while there is room for them. Idle memory of other streams is given up before anything fails. */
static CUresult ensure(struct cache *cache, size_t bytes)
{
    size_t idle = cache->reserved - cache->live;
    if (idle >= bytes) {
        return CUDA_SUCCESS;
    }
    size_t growth = ROUND_UP(bytes - idle, GROWTH);
    CUresult rc = device_charge(cache->device, growth);
    if (rc == CUDA_ERROR_OUT_OF_MEMORY) {
        trim(cache->device);
        growth = bytes;
        rc = device_charge(cache->device, growth);
    }
    REQUIRE(rc == CUDA_SUCCESS, rc);
    cache->reserved += growth;
    return CUDA_SUCCESS;
}

CUresult graph_memory_map(struct graph_memory *memory, uint64_t stream)
{
    if (memory->live != 0) {              /* an upload while allocations live: everything is in its place */
        return CUDA_SUCCESS;
    }
    for (int device = 0; device < device_count(); device++) {
        size_t bytes = footprint(memory, device);
        struct cache *cache;
        if (bytes == 0) {
            continue;
        }
        TRY(find_cache(device, stream, &cache));
        TRY(ensure(cache, bytes));
        memory->mapped = cache;
        for (struct arena *arena = memory->arenas; arena != NULL; arena = arena->next) {
            arena->cache = arena->device == device ? cache : arena->cache;
        }
        note_highs(device);
    }
    return CUDA_SUCCESS;
}

void graph_memory_retain(struct graph_memory *memory)
{
    if (memory != NULL) {
        memory->references++;
    }
}

void graph_memory_release(struct graph_memory *memory)
{
    if (memory == NULL || --memory->references > 0) {
        return;
    }
    struct graph_memory **link = &memories;
    while (*link != memory) {
        link = &(*link)->next;
    }
    *link = memory->next;
    for (struct arena *arena = memory->arenas, *next; arena != NULL; arena = next) {
        next = arena->next;
        address_release(arena->start, arena->size);
        backing_unmap(arena->bytes, arena->size);
        free(arena->live);
        free(arena);
    }
    for (struct place *place = memory->places, *next; place != NULL; place = next) {
        next = place->next;
        free(place);
    }
    free(memory);
}

static CUresult add_arena(struct graph_memory *memory, int device, size_t size)
{
    struct arena *arena = calloc(1, sizeof *arena);
    REQUIRE(arena != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *arena = (struct arena){ .next = memory->arenas, .device = device, .size = ROUND_UP(size, GROWTH) };
    arena->live = calloc(PAGES(arena->size), sizeof *arena->live);
    arena->bytes = arena->live != NULL ? backing_map(arena->size) : NULL;
    CUresult rc = arena->bytes != NULL ? address_reserve(arena->size, PHYSICAL_GRANULE, 0, &arena->start)
                                       : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc != CUDA_SUCCESS) {
        if (arena->bytes != NULL) {
            backing_unmap(arena->bytes, arena->size);
        }
        free(arena->live);
        free(arena);
        return rc;
    }
    memory->arenas = arena;
    return CUDA_SUCCESS;
}

static CUresult memory_of(CUgraph graph, struct graph_memory **out)
{
    if (graph->memory == NULL) {
        struct graph_memory *memory = calloc(1, sizeof *memory);
        REQUIRE(memory != NULL, CUDA_ERROR_OUT_OF_MEMORY);
        *memory = (struct graph_memory){ .next = memories, .references = 1 };
        memories = graph->memory = memory;
    }
    *out = graph->memory;
    return CUDA_SUCCESS;
}

/* A place that was vacated before the node runs. */
static struct place *vacant(struct graph_memory *memory, CUgraphNode node, int device, size_t size)
{
    for (struct place *place = memory->places; place != NULL; place = place->next) {
        if (place->vacated_by != NULL && place->arena->device == device && place->size >= size &&
            graph_precedes(place->vacated_by, node->dependencies, node->dependency_count)) {
            return place;
        }
    }
    return NULL;
}

static CUresult new_place(struct graph_memory *memory, int device, size_t size, struct place **out)
{
    struct arena *arena = memory->arenas;
    while (arena != NULL && (arena->device != device || arena->size - arena->used < size)) {
        arena = arena->next;
    }
    if (arena == NULL) {
        TRY(add_arena(memory, device, size));
        arena = memory->arenas;
    }
    struct place *place = calloc(1, sizeof *place);
    REQUIRE(place != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    *place = (struct place){ .next = memory->places, .arena = arena, .offset = arena->used, .size = size };
    memory->places = place;
    arena->used += size;
    *out = place;
    return CUDA_SUCCESS;
}

CUresult graph_memory_place(CUgraph graph, CUgraphNode node, CUdeviceptr *address)
{
    REQUIRE(node->work.alloc.size <= SIZE_MAX / 2, CUDA_ERROR_OUT_OF_MEMORY);
    size_t size = ROUND_UP(node->work.alloc.size, ALIGNMENT);
    int device = node->work.alloc.properties.location.id;
    struct graph_memory *memory;
    TRY(memory_of(graph, &memory));
    struct place *place = vacant(memory, node, device, size);
    if (place == NULL) {
        TRY(new_place(memory, device, size, &place));
    }
    place->vacated_by = NULL;
    *address = place->arena->start + place->offset;
    return CUDA_SUCCESS;
}

void graph_memory_vacate(struct graph_memory *memory, CUdeviceptr address, CUgraphNode free_node)
{
    for (struct place *place = memory->places; place != NULL; place = place->next) {
        if (place->arena->start + place->offset == address) {
            place->vacated_by = free_node;
        }
    }
}

void graph_memory_associate(struct graph_memory *memory, bool executable)
{
    if (memory != NULL) {
        memory->executable = executable;
    }
}

bool graph_memory_associated(const struct graph_memory *memory)
{
    return memory != NULL && memory->executable;
}

bool graph_memory_live(const struct graph_memory *memory)
{
    return memory != NULL && memory->live != 0;
}

static void count_pages(struct arena *arena, size_t offset, size_t size, bool begins)
{
    for (size_t page = offset / PHYSICAL_GRANULE; page <= (offset + size - 1) / PHYSICAL_GRANULE; page++) {
        if (begins && arena->live[page]++ == 0) {
            arena->cache->live += PHYSICAL_GRANULE;
        } else if (!begins && --arena->live[page] == 0) {
            arena->cache->live -= PHYSICAL_GRANULE;
        }
    }
}

CUresult graph_memory_begin(struct graph_memory *memory, CUdeviceptr address, size_t size)
{
    struct arena *arena = memory->arenas;
    while (address - arena->start >= arena->size) {
        arena = arena->next;
    }
    REQUIRE(!range_overlaps(address, size), CUDA_ERROR_INVALID_VALUE);
    struct range range = { .start = address, .size = size, .kind = RANGE_GRAPH, .device = arena->device,
                           .bytes = arena->bytes + (address - arena->start), .graph_memory = memory };
    TRY(range_insert(&range));
    count_pages(arena, (size_t)(address - arena->start), size, true);
    memory->live++;
    graph_memory_retain(memory);
    return CUDA_SUCCESS;
}

void graph_memory_end(const struct range *range)
{
    struct graph_memory *memory = range->graph_memory;
    struct arena *arena = memory->arenas;
    while (range->start - arena->start >= arena->size) {
        arena = arena->next;
    }
    count_pages(arena, (size_t)(range->start - arena->start), range->size, false);
    memory->live--;
    graph_memory_release(memory);
}

void graph_memory_free_all(struct graph_memory *memory)
{
    for (int i = range_count() - 1; i >= 0; i--) {
        struct range *range = range_by_index(i);
        if (range->kind == RANGE_GRAPH && range->graph_memory == memory) {
            memory_release(range);
        }
    }
}

void graph_memory_reset(int device)
{
    for (int i = range_count() - 1; i >= 0; i--) {
        struct range *range = range_by_index(i);
        if (range->kind == RANGE_GRAPH && range->device == device) {
            memory_release(range);
        }
    }
    trim(device);
}

static CUresult trim_device(int device)
{
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    return trim(device);
}

static CUresult get_attribute(int device, int attribute, uint64_t *value)
{
    NOT_NULL(value);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(attribute >= 0 && attribute <= 3, CUDA_ERROR_INVALID_VALUE);
    const size_t values[] = { used_on(device), highs[device].used_high, reserved_on(device),
                              highs[device].reserved_high };
    *value = values[attribute];
    return CUDA_SUCCESS;
}

/* High-water marks can only be reset, to what is held now. */
static CUresult set_attribute(int device, int attribute, const uint64_t *value)
{
    NOT_NULL(value);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE((attribute == 1 || attribute == 3) && *value == 0, CUDA_ERROR_INVALID_VALUE);
    *(attribute == 1 ? &highs[device].used_high : &highs[device].reserved_high) = 0;
    note_highs(device);
    return CUDA_SUCCESS;
}

CUAPI CUresult cuDeviceGraphMemTrim(CUdevice device) { DRIVER_CALL(trim_device(device)); }
CUAPI CUresult cuDeviceGetGraphMemAttribute(CUdevice device, int attribute, void *value)
{
    DRIVER_CALL(get_attribute(device, attribute, value));
}
CUAPI CUresult cuDeviceSetGraphMemAttribute(CUdevice device, int attribute, void *value)
{
    DRIVER_CALL(set_attribute(device, attribute, value));
}
