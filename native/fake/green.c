/* green.c: green contexts, which are the primary context with a share of the SMs. Only the whole device can be had. */
#include "driver.h"

#include <stdlib.h>

#define RESOURCE_SM 1
#define GREEN_FLAGS_MASK 1u               /* CU_GREEN_CTX_DEFAULT_STREAM */

typedef struct {
    int type;
    unsigned char padding[92];
    struct { unsigned count, minimum, alignment, flags, domain; } sm;
    unsigned char rest[28];
} CUdevResource;
_Static_assert(sizeof(CUdevResource) == 144, "CUdevResource");

/* Descriptions and green contexts are never freed: a stale handle must be recognised. */
struct fake_description {
    struct fake_description *next;
    unsigned count;
};

struct fake_green {
    struct fake_green *next;
    CUcontext context;
};

static struct fake_description *descriptions;
static struct fake_green *greens;

static CUresult device_resource(CUdevice ordinal, CUdevResource *out, int type)
{
    NOT_NULL(out);
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(type == RESOURCE_SM, CUDA_ERROR_INVALID_RESOURCE_TYPE);
    *out = (CUdevResource){ .type = type, .sm = { .count = device->hw->multiprocessors, .minimum = 8, .alignment = 8 } };
    return CUDA_SUCCESS;
}

static CUresult describe(struct fake_description **out, const CUdevResource *resources, unsigned count)
{
    NOT_NULL(out);
    NOT_NULL(resources);
    REQUIRE(count == 1 && resources->type == RESOURCE_SM, CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
    struct fake_description *description = calloc(1, sizeof *description);
    REQUIRE(description != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    description->count = resources->sm.count;
    description->next = descriptions;
    descriptions = description;
    *out = description;
    return CUDA_SUCCESS;
}

static bool described(const struct fake_description *wanted)
{
    const struct fake_description *known = descriptions;
    while (known != NULL && known != wanted) {
        known = known->next;
    }
    return known != NULL;
}

static CUresult create(struct fake_green **out, struct fake_description *description, CUdevice device, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(described(description) && (flags & ~GREEN_FLAGS_MASK) == 0, CUDA_ERROR_INVALID_VALUE);
    struct fake_green *green = calloc(1, sizeof *green);
    REQUIRE(green != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    CUcontext primary;
    CUresult rc = context_retain_primary(&primary, device);
    if (rc == CUDA_SUCCESS) {
        rc = context_allocate(&green->context, device, false);
        if (rc != CUDA_SUCCESS) {
            context_release_primary(device);
        }
    }
    if (rc != CUDA_SUCCESS) {
        free(green);
        return rc;
    }
    green->context->green = green->context->alive = true;
    green->next = greens;
    greens = green;
    *out = green;
    return CUDA_SUCCESS;
}

static CUresult find(struct fake_green *wanted)
{
    struct fake_green *known = greens;
    while (known != NULL && known != wanted) {
        known = known->next;
    }
    REQUIRE(known != NULL, CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE(known->context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    return CUDA_SUCCESS;
}

static CUresult destroy(struct fake_green *green)
{
    TRY(find(green));
    green->context->alive = false;
    return context_release_primary(green->context->device);
}

static CUresult context_of(CUcontext *out, struct fake_green *green)
{
    NOT_NULL(out);
    TRY(find(green));
    *out = green->context;
    return CUDA_SUCCESS;
}

CUAPI CUresult cuDeviceGetDevResource(CUdevice d, CUdevResource *out, int type)
{
    DRIVER_CALL(device_resource(d, out, type));
}
CUAPI CUresult cuDevResourceGenerateDesc(struct fake_description **out, const CUdevResource *resources, unsigned count)
{
    DRIVER_CALL(describe(out, resources, count));
}
CUAPI CUresult cuGreenCtxCreate(struct fake_green **out, struct fake_description *d, CUdevice device, unsigned flags)
{
    DRIVER_CALL(create(out, d, device, flags));
}
CUAPI CUresult cuGreenCtxDestroy(struct fake_green *green) { DRIVER_CALL(destroy(green)); }
CUAPI CUresult cuCtxFromGreenCtx(CUcontext *out, struct fake_green *green) { DRIVER_CALL(context_of(out, green)); }
