/* context.c: contexts, the primary context of each device, and each thread's stack of current contexts. */
#define _GNU_SOURCE
#include "graph.h"

#include <stdlib.h>

#define STACK_DEPTH 64
#define FLAGS_MASK 0xffu
#define SCHEDULE_MASK 0x07u
#define API_VERSION 3020

static _Thread_local CUcontext stack[STACK_DEPTH];
static _Thread_local int depth;
static CUcontext contexts;
static uint64_t last_id;

bool context_known(CUcontext context)
{
    for (CUcontext known = contexts; known != NULL; known = known->next) {
        if (known == context) {
            return true;
        }
    }
    return false;
}

static CUcontext top(void)
{
    return depth > 0 ? stack[depth - 1] : NULL;
}

CUresult context_current(CUcontext *context)
{
    CUcontext current = top();
    REQUIRE(current != NULL, CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE(current->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    /* Whatever does not depend on the share of the SMs is done in the primary context, and so is all memory. */
    *context = current->green ? device_at(current->device)->primary : current;
    return CUDA_SUCCESS;
}

CUresult context_current_device(int *ordinal)
{
    CUcontext context;
    TRY(context_current(&context));
    *ordinal = context->device;
    return CUDA_SUCCESS;
}

static int living_on(int device)
{
    int living = 0;
    for (CUcontext context = contexts; context != NULL; context = context->next) {
        living += context->alive && !context->green && context->device == device;
    }
    return living;
}

/* Make a context live: its cost is charged to the device like any allocation and can fail like one. */
static CUresult raise(CUcontext context, unsigned flags)
{
    struct fake_device *device = device_at(context->device);
    TRY(device_charge(context->device, device->hw->context_bytes));
    if (machine_set_context(&fake_machine, device->gpu, true) != MACHINE_OK) {
        device_discharge(context->device, device->hw->context_bytes);
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    context->alive = true;
    context->flags = flags;
    context->id = ++last_id;
    return CUDA_SUCCESS;
}

static void lower(CUcontext context)
{
    struct fake_device *device = device_at(context->device);
    memory_release_context(context);
    modules_release_context(context);
    device_discharge(context->device, context->heap_bytes);
    context->heap_bytes = 0;
    arrays_release_context(context);
    context->alive = false;
    device_discharge(context->device, device->hw->context_bytes);
    if (living_on(context->device) == 0) {
        machine_set_context(&fake_machine, device->gpu, false);
    }
}

CUresult context_allocate(CUcontext *out, int device, bool primary)
{
    CUcontext context = calloc(1, sizeof *context);
    REQUIRE(context != NULL, CUDA_ERROR_OUT_OF_MEMORY);
    context->device = device;
    context->primary = primary;
    context->next = contexts;
    contexts = context;
    *out = context;
    return CUDA_SUCCESS;
}

static CUresult push(CUcontext context)
{
    REQUIRE(context != NULL && context_known(context), CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE(context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    REQUIRE(depth < STACK_DEPTH, CUDA_ERROR_INVALID_VALUE);
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

static CUresult create(CUcontext *out, unsigned flags, CUdevice device)
{
    NOT_NULL(out);
    REQUIRE(device_at(device) != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE((flags & ~FLAGS_MASK) == 0 && depth < STACK_DEPTH, CUDA_ERROR_INVALID_VALUE);
    CUcontext context;
    TRY(context_allocate(&context, device, false));
    TRY(raise(context, flags));
    TRY(push(context));
    *out = context;
    return CUDA_SUCCESS;
}

/* Execution affinity needs MPS, which the model has not; without parameters the newer forms are the plain one. */
static CUresult create_v3(CUcontext *out, const void *affinity, int affinities, unsigned flags, CUdevice device)
{
    REQUIRE(affinity == NULL && affinities == 0, CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
    return create(out, flags, device);
}

static CUresult create_v4(CUcontext *out, const void *parameters, unsigned flags, CUdevice device)
{
    REQUIRE(parameters == NULL, CUDA_ERROR_NOT_SUPPORTED);
    return create(out, flags, device);
}

/* The usage count of CUDA 2: the last detachment destroys the context. */
static CUresult attach(CUcontext *out, unsigned flags)
{
    NOT_NULL(out);
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    CUcontext context;
    TRY(context_current(&context));
    context->attachments++;
    *out = context;
    return CUDA_SUCCESS;
}

static CUresult destroy(CUcontext context)
{
    REQUIRE(context != NULL && context_known(context) && !context->primary && !context->green,
            CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE(context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (top() == context) {
        depth--;
    }
    lower(context);
    return CUDA_SUCCESS;
}

static CUresult detach(CUcontext context)
{
    REQUIRE(context != NULL && context == top(), CUDA_ERROR_INVALID_CONTEXT);
    if (context->attachments > 0) {
        context->attachments--;
        return CUDA_SUCCESS;
    }
    return destroy(context);
}

static CUresult pop(CUcontext *out)
{
    REQUIRE(depth > 0, CUDA_ERROR_INVALID_CONTEXT);
    CUcontext popped = stack[--depth];
    if (out != NULL) {
        *out = popped;
    }
    return CUDA_SUCCESS;
}

static CUresult set_current(CUcontext context)
{
    if (context == NULL) {
        depth -= depth > 0;
        return CUDA_SUCCESS;
    }
    REQUIRE(context_known(context), CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE(context->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (depth == 0) {
        depth = 1;
    }
    stack[depth - 1] = context;
    return CUDA_SUCCESS;
}

static CUresult get_current(CUcontext *out)
{
    NOT_NULL(out);
    *out = top();
    return CUDA_SUCCESS;
}

static CUresult resolve(CUcontext *context)
{
    if (*context == NULL) {
        return context_current(context);
    }
    REQUIRE(context_known(*context), CUDA_ERROR_INVALID_CONTEXT);
    REQUIRE((*context)->alive, CUDA_ERROR_CONTEXT_IS_DESTROYED);
    return CUDA_SUCCESS;
}

static CUresult get_device(CUdevice *out, CUcontext context)
{
    NOT_NULL(out);
    TRY(resolve(&context));
    *out = context->device;
    return CUDA_SUCCESS;
}

static CUresult get_flags(unsigned *out)
{
    NOT_NULL(out);
    CUcontext context;
    TRY(context_current(&context));
    *out = context->flags;
    return CUDA_SUCCESS;
}

static CUresult set_flags(unsigned flags)
{
    CUcontext context;
    TRY(context_current(&context));
    REQUIRE((flags & ~FLAGS_MASK) == 0, CUDA_ERROR_INVALID_VALUE);
    context->flags = flags;
    return CUDA_SUCCESS;
}

static CUresult get_id(CUcontext context, unsigned long long *id)
{
    NOT_NULL(id);
    TRY(resolve(&context));
    *id = context->id;
    return CUDA_SUCCESS;
}

static CUresult get_api_version(CUcontext context, unsigned *version)
{
    NOT_NULL(version);
    TRY(resolve(&context));
    *version = API_VERSION;
    return CUDA_SUCCESS;
}

static CUresult priority_range(int *least, int *greatest)
{
    CUcontext context;
    TRY(context_current(&context));
    if (least != NULL) {
        *least = 0;
    }
    if (greatest != NULL) {
        *greatest = -5;
    }
    return CUDA_SUCCESS;
}

/* Every modelled GPU is alone on its bus. */
static CUresult enable_peer(CUcontext peer, unsigned flags)
{
    TRY(resolve(&peer));
    REQUIRE(flags == 0, CUDA_ERROR_INVALID_VALUE);
    return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
}

static CUresult disable_peer(CUcontext peer)
{
    TRY(resolve(&peer));
    return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

static CUresult synchronize(CUcontext context)
{
    TRY(resolve(&context));
    pools_synchronize();
    return CUDA_SUCCESS;
}

CUresult context_retain_primary(CUcontext *out, CUdevice ordinal)
{
    NOT_NULL(out);
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    if (device->primary == NULL) {
        TRY(context_allocate(&device->primary, ordinal, true));
    }
    if (!device->primary->alive) {
        TRY(raise(device->primary, device->primary_flags));
    }
    device->primary_references++;
    *out = device->primary;
    return CUDA_SUCCESS;
}

CUresult context_release_primary(CUdevice ordinal)
{
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(device->primary_references > 0, CUDA_ERROR_INVALID_CONTEXT);
    if (--device->primary_references == 0 && device->primary->alive) {
        lower(device->primary);
        pools_reset(ordinal);
        graph_memory_reset(ordinal);
    }
    return CUDA_SUCCESS;
}

/* Everything on the device goes; references stay, and the next retain raises the context anew. */
static CUresult primary_reset(CUdevice ordinal)
{
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    if (device->primary != NULL && device->primary->alive) {
        lower(device->primary);
        pools_reset(ordinal);
        graph_memory_reset(ordinal);
    }
    device->primary_flags = 0;
    return CUDA_SUCCESS;
}

static CUresult primary_state(CUdevice ordinal, unsigned *flags, int *active)
{
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    bool alive = device->primary != NULL && device->primary->alive;
    if (flags != NULL) {
        *flags = alive ? device->primary->flags : device->primary_flags;
    }
    if (active != NULL) {
        *active = alive;
    }
    return CUDA_SUCCESS;
}

static CUresult primary_set_flags(CUdevice ordinal, unsigned flags)
{
    struct fake_device *device = device_at(ordinal);
    REQUIRE(device != NULL, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE((flags & ~FLAGS_MASK) == 0 && (flags & SCHEDULE_MASK) <= 4, CUDA_ERROR_INVALID_VALUE);
    device->primary_flags = flags;
    if (device->primary != NULL) {
        device->primary->flags = flags;
    }
    return CUDA_SUCCESS;
}

CUAPI CUresult cuCtxCreate(CUcontext *out, unsigned flags, CUdevice d) { DRIVER_CALL(create(out, flags, d)); }
CUAPI CUresult cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice d) { DRIVER_CALL(create(out, flags, d)); }
CUAPI CUresult cuCtxCreate_v3(CUcontext *out, const void *affinity, int affinities, unsigned flags, CUdevice device)
{
    DRIVER_CALL(create_v3(out, affinity, affinities, flags, device));
}
CUAPI CUresult cuCtxCreate_v4(CUcontext *out, const void *parameters, unsigned flags, CUdevice device)
{
    DRIVER_CALL(create_v4(out, parameters, flags, device));
}
CUAPI CUresult cuCtxAttach(CUcontext *out, unsigned flags) { DRIVER_CALL(attach(out, flags)); }
CUAPI CUresult cuCtxDetach(CUcontext context) { DRIVER_CALL(detach(context)); }
CUAPI CUresult cuCtxDestroy(CUcontext context) { DRIVER_CALL(destroy(context)); }
CUAPI CUresult cuCtxDestroy_v2(CUcontext context) { DRIVER_CALL(destroy(context)); }
CUAPI CUresult cuCtxPushCurrent(CUcontext context) { DRIVER_CALL(push(context)); }
CUAPI CUresult cuCtxPushCurrent_v2(CUcontext context) { DRIVER_CALL(push(context)); }
CUAPI CUresult cuCtxPopCurrent(CUcontext *out) { DRIVER_CALL(pop(out)); }
CUAPI CUresult cuCtxPopCurrent_v2(CUcontext *out) { DRIVER_CALL(pop(out)); }
CUAPI CUresult cuCtxSetCurrent(CUcontext context) { DRIVER_CALL(set_current(context)); }
CUAPI CUresult cuCtxGetCurrent(CUcontext *out) { DRIVER_CALL(get_current(out)); }
CUAPI CUresult cuCtxGetDevice(CUdevice *out) { DRIVER_CALL(get_device(out, NULL)); }
CUAPI CUresult cuCtxGetDevice_v2(CUdevice *out, CUcontext context) { DRIVER_CALL(get_device(out, context)); }
CUAPI CUresult cuCtxGetFlags(unsigned *out) { DRIVER_CALL(get_flags(out)); }
CUAPI CUresult cuCtxSetFlags(unsigned flags) { DRIVER_CALL(set_flags(flags)); }
CUAPI CUresult cuCtxGetId(CUcontext context, unsigned long long *id) { DRIVER_CALL(get_id(context, id)); }
CUAPI CUresult cuCtxGetApiVersion(CUcontext context, unsigned *v) { DRIVER_CALL(get_api_version(context, v)); }
CUAPI CUresult cuCtxGetStreamPriorityRange(int *l, int *g) { DRIVER_CALL(priority_range(l, g)); }
CUAPI CUresult cuCtxSynchronize(void) { DRIVER_CALL(synchronize(NULL)); }
CUAPI CUresult cuCtxSynchronize_v2(CUcontext context) { DRIVER_CALL(synchronize(context)); }
CUAPI CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) { DRIVER_CALL(enable_peer(peer, flags)); }
CUAPI CUresult cuCtxDisablePeerAccess(CUcontext peer) { DRIVER_CALL(disable_peer(peer)); }
CUAPI CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice d) { DRIVER_CALL(context_retain_primary(out, d)); }
CUAPI CUresult cuDevicePrimaryCtxRelease(CUdevice d) { DRIVER_CALL(context_release_primary(d)); }
CUAPI CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) { DRIVER_CALL(context_release_primary(d)); }
CUAPI CUresult cuDevicePrimaryCtxReset(CUdevice d) { DRIVER_CALL(primary_reset(d)); }
CUAPI CUresult cuDevicePrimaryCtxReset_v2(CUdevice d) { DRIVER_CALL(primary_reset(d)); }
CUAPI CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *a) { DRIVER_CALL(primary_state(d, f, a)); }
CUAPI CUresult cuDevicePrimaryCtxSetFlags(CUdevice d, unsigned flags) { DRIVER_CALL(primary_set_flags(d, flags)); }
CUAPI CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice d, unsigned flags) { DRIVER_CALL(primary_set_flags(d, flags)); }
