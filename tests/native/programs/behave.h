/* behave.h: the list of the checks of behave, and what they look at. */
#ifndef TESTS_BEHAVE_H
#define TESTS_BEHAVE_H

#include "driver_api.h"

/* A check that is not in the list has no prototype: it does not compile, so that none is forgotten. */
#pragma GCC diagnostic error "-Wmissing-prototypes"

/* hooked symbol, its check */
#define CHECKS(ONE) \
    ONE(cuMemAlloc, check_alloc_v1) \
    ONE(cuMemAlloc_v2, check_alloc_v2) \
    ONE(cuMemAllocPitch, check_alloc_pitch_v1) \
    ONE(cuMemAllocPitch_v2, check_alloc_pitch_v2) \
    ONE(cuMemAllocManaged, check_alloc_managed) \
    ONE(cuMemCreate, check_alloc_create) \
    ONE(cuMemAllocAsync, check_alloc_async) \
    ONE(cuMemAllocAsync_ptsz, check_alloc_async_ptsz) \
    ONE(cuMemAllocFromPoolAsync, check_alloc_pool) \
    ONE(cuMemAllocFromPoolAsync_ptsz, check_alloc_pool_ptsz) \
    ONE(cuArrayCreate, check_array_v1) \
    ONE(cuArrayCreate_v2, check_array_v2) \
    ONE(cuArray3DCreate, check_array_3d_v1) \
    ONE(cuArray3DCreate_v2, check_array_3d_v2) \
    ONE(cuMipmappedArrayCreate, check_mipmap_create) \
    ONE(cuArrayDestroy, check_array_destroy) \
    ONE(cuMipmappedArrayDestroy, check_mipmap_destroy) \
    ONE(cuMemMapArrayAsync, check_tiles_legacy) \
    ONE(cuMemMapArrayAsync_ptsz, check_tiles_ptsz) \
    ONE(cuMemAllocHost, check_host_alloc_v1) \
    ONE(cuMemAllocHost_v2, check_host_alloc_v2) \
    ONE(cuMemHostAlloc, check_host_alloc_flags) \
    ONE(cuMemHostRegister, check_host_register_v1) \
    ONE(cuMemHostRegister_v2, check_host_register_v2) \
    ONE(cuMemFreeHost, check_host_free) \
    ONE(cuMemHostUnregister, check_host_unregister) \
    ONE(cuInit, check_init) \
    ONE(cuMemFree, check_free_v1) \
    ONE(cuMemFree_v2, check_free_v2) \
    ONE(cuMemFreeAsync, check_free_async_legacy) \
    ONE(cuMemFreeAsync_ptsz, check_free_async_ptsz) \
    ONE(cuMemRelease, check_release) \
    ONE(cuMemMap, check_map) \
    ONE(cuMemUnmap, check_unmap) \
    ONE(cuMemRetainAllocationHandle, check_retain) \
    ONE(cuCtxCreate, check_ctx_create_v1) \
    ONE(cuCtxCreate_v2, check_ctx_create_v2) \
    ONE(cuCtxCreate_v3, check_ctx_create_v3) \
    ONE(cuCtxCreate_v4, check_ctx_create_v4) \
    ONE(cuCtxAttach, check_ctx_attach) \
    ONE(cuCtxDetach, check_ctx_detach) \
    ONE(cuCtxDestroy, check_ctx_destroy_v1) \
    ONE(cuCtxDestroy_v2, check_ctx_destroy_v2) \
    ONE(cuDevicePrimaryCtxRetain, check_primary_retain) \
    ONE(cuDevicePrimaryCtxRelease, check_primary_release_v1) \
    ONE(cuDevicePrimaryCtxRelease_v2, check_primary_release_v2) \
    ONE(cuDevicePrimaryCtxReset, check_primary_reset_v1) \
    ONE(cuDevicePrimaryCtxReset_v2, check_primary_reset_v2) \
    ONE(cuModuleLoad, check_module_load) \
    ONE(cuModuleLoadData, check_module_data) \
    ONE(cuModuleLoadDataEx, check_module_data_ex) \
    ONE(cuModuleLoadFatBinary, check_module_fat) \
    ONE(cuModuleUnload, check_module_unload) \
    ONE(cuLibraryLoadData, check_library_data) \
    ONE(cuLibraryLoadFromFile, check_library_file) \
    ONE(cuLibraryUnload, check_library_unload) \
    ONE(cuCtxSetLimit, check_heaps) \
    ONE(cuGreenCtxCreate, check_green_create) \
    ONE(cuGreenCtxDestroy, check_green_destroy) \
    ONE(cuMemPoolTrimTo, check_trim) \
    ONE(cuMemPoolDestroy, check_pool_destroy) \
    ONE(cuMemPoolCreate, check_pool_create) \
    ONE(cuGraphInstantiate, check_graph_instantiate) \
    ONE(cuGraphInstantiate_v2, check_graph_instantiate_v2) \
    ONE(cuGraphInstantiateWithFlags, check_graph_instantiate_flags) \
    ONE(cuGraphInstantiateWithParams, check_graph_instantiate_params) \
    ONE(cuGraphInstantiateWithParams_ptsz, check_graph_instantiate_params_ptsz) \
    ONE(cuGraphUpload, check_graph_upload) \
    ONE(cuGraphUpload_ptsz, check_graph_upload_ptsz) \
    ONE(cuGraphLaunch, check_graph_launch) \
    ONE(cuGraphLaunch_ptsz, check_graph_launch_ptsz) \
    ONE(cuDeviceGraphMemTrim, check_graph_trim) \
    ONE(cuMemExportToShareableHandle, check_export) \
    ONE(cuMemImportFromShareableHandle, check_import) \
    ONE(cuIpcGetMemHandle, check_ipc_get) \
    ONE(cuIpcOpenMemHandle, check_ipc_open_v1) \
    ONE(cuIpcOpenMemHandle_v2, check_ipc_open_v2) \
    ONE(cuIpcCloseMemHandle, check_ipc_close) \
    ONE(cuMemPoolImportFromShareableHandle, check_pool_import) \
    ONE(cuMemPoolExportPointer, check_pool_export_pointer) \
    ONE(cuMemPoolImportPointer, check_pool_import_pointer) \
    ONE(cuStreamSynchronize, check_settling_stream) \
    ONE(cuStreamSynchronize_ptsz, check_settling_stream_ptsz) \
    ONE(cuCtxSynchronize, check_settling_context) \
    ONE(cuCtxSynchronize_v2, check_settling_context_v2) \
    ONE(cuEventSynchronize, check_settling_event) \
    ONE(cuMemGetInfo, check_info_v1) \
    ONE(cuMemGetInfo_v2, check_info_v2) \
    ONE(cuDeviceTotalMem, check_total_v1) \
    ONE(cuDeviceTotalMem_v2, check_total_v2) \
    ONE(cuGetProcAddress, check_route_v1) \
    ONE(cuGetProcAddress_v2, check_route_v2) \
    ONE(cuGetProcAddress_v2_ptsz, check_route_v2_ptsz) \
    ONE(nvmlDeviceGetMemoryInfo, check_nvml) \
    ONE(nvmlDeviceGetMemoryInfo_v2, check_nvml_v2) \
    ONE(nvmlDeviceGetBAR1MemoryInfo, check_bar1) \
    ONE(nvmlDeviceGetMemoryLimits_v1, check_memory_limits) \
    ONE(nvmlDeviceGetComputeRunningProcesses, check_compute_v1) \
    ONE(nvmlDeviceGetComputeRunningProcesses_v2, check_compute_v2) \
    ONE(nvmlDeviceGetComputeRunningProcesses_v3, check_compute_v3) \
    ONE(nvmlDeviceGetGraphicsRunningProcesses, check_graphics_v1) \
    ONE(nvmlDeviceGetGraphicsRunningProcesses_v2, check_graphics_v2) \
    ONE(nvmlDeviceGetGraphicsRunningProcesses_v3, check_graphics_v3) \
    ONE(nvmlDeviceGetMPSComputeRunningProcesses, check_mps_v1) \
    ONE(nvmlDeviceGetMPSComputeRunningProcesses_v2, check_mps_v2) \
    ONE(nvmlDeviceGetMPSComputeRunningProcesses_v3, check_mps_v3) \
    ONE(nvmlDeviceGetRunningProcessDetailList, check_detail_list) \
    ONE(nvmlDeviceGetCount, check_count_v1) \
    ONE(nvmlDeviceGetCount_v2, check_count_v2) \
    ONE(nvmlDeviceGetHandleByIndex, check_by_index_v1) \
    ONE(nvmlDeviceGetHandleByIndex_v2, check_by_index_v2) \
    ONE(nvmlDeviceGetHandleByUUID, check_by_uuid) \
    ONE(nvmlDeviceGetHandleByUUIDV, check_by_uuid_struct) \
    ONE(nvmlDeviceGetHandleByPciBusId, check_by_bus_v1) \
    ONE(nvmlDeviceGetHandleByPciBusId_v2, check_by_bus_v2) \
    ONE(nvmlDeviceGetHandleBySerial, check_by_serial) \
    ONE(nvmlDeviceGetIndex, check_index) \
    ONE(nvmlDeviceGetUtilizationRates, check_utilization) \
    ONE(nvmlDeviceGetDynamicPstatesInfo, check_pstates) \
    ONE(nvmlDeviceGetSamples, check_samples) \
    ONE(nvmlDeviceGetProcessUtilization, check_process_utilization) \
    ONE(nvmlDeviceGetProcessesUtilizationInfo, check_processes_utilization) \
    ONE(nvmlDeviceGetAccountingPids, check_accounting_pids) \
    ONE(nvmlDeviceGetAccountingStats, check_accounting_stats) \
    ONE(nvmlDeviceGetAccountingStats_v2, check_accounting_stats_v2) \
    ONE(nvmlDeviceGetEncoderUtilization, check_encoder) \
    ONE(nvmlDeviceGetDecoderUtilization, check_decoder) \
    ONE(nvmlDeviceGetJpgUtilization, check_jpeg) \
    ONE(nvmlDeviceGetOfaUtilization, check_flow) \
    ONE(nvmlDeviceGetEncoderStats, check_encoder_stats) \
    ONE(nvmlDeviceGetEncoderSessions, check_encoder_sessions) \
    ONE(nvmlDeviceGetFBCStats, check_capture_stats) \
    ONE(nvmlDeviceGetFBCSessions, check_capture_sessions) \
    ONE(nvmlGpmSampleGet, check_metrics_sample) \
    ONE(nvmlGpmQueryDeviceSupport, check_metrics_support)

#define DECLARE_CHECK(symbol, check) void check(void);
CHECKS(DECLARE_CHECK)
#undef DECLARE_CHECK

/* From now on calls of that function are made during another thread's capture, if the environment says so. */
void capture_around(const char *symbol);

extern size_t limit;
extern handle_t own_pool;              /* a pool of GPU 0, made for each check but cuInit's */

/* What this process, the only one, has charged on a GPU. */
uint64_t charged_on(int device);
uint64_t charged(void);

/* What it has counted of the host's memory, in the account of GPU 0. */
uint64_t pinned(void);

/* What it has charged for contexts and code on GPU 0: nothing, unless the check is about that. */
uint64_t overhead(void);

/* What cuMemGetInfo_v2 says is free; its total must be the limit. */
size_t shown_free(void);

typedef int allocate_t(uint64_t *result, size_t bytes);
typedef void release_t(uint64_t result);

/* The limit holds for one spelling of allocation. `slack` is how much more than asked for may be charged. */
void check_allocation(allocate_t *allocate, release_t *release, size_t slack);

#endif
