/* nvml_settings.c: what administrators change on a device, for every process and until the machine is made anew.
 *
 * The driver lets root do so. The model lets everybody: the tests that show what an interceptor holds back can run as
 * anybody.
 */
#include "nvml.h"

#define COMPUTE_MODE_COUNT 4u

NVML_NUMBER(nvmlDeviceGetPersistenceMode, unsigned, __atomic_load_n(&device->hw->persistence_mode, __ATOMIC_RELAXED))
NVML_NUMBER(nvmlDeviceGetComputeMode, unsigned, __atomic_load_n(&device->hw->compute_mode, __ATOMIC_RELAXED))
NVML_NUMBER(nvmlDeviceGetAccountingMode, unsigned, __atomic_load_n(&device->hw->accounting_mode, __ATOMIC_RELAXED))

#define SETTER(function, setting, values) \
    NVMLAPI nvmlReturn function(nvmlDevice device, unsigned value) \
    { \
        NVML_TRY(nvml_check(device)); \
        NVML_REQUIRE(value < (values), NVML_ERROR_INVALID_ARGUMENT); \
        __atomic_store_n(&device->hw->setting, value, __ATOMIC_RELAXED); \
        return NVML_SUCCESS; \
    }

SETTER(nvmlDeviceSetPersistenceMode, persistence_mode, 2)
SETTER(nvmlDeviceSetComputeMode, compute_mode, COMPUTE_MODE_COUNT)
SETTER(nvmlDeviceSetAccountingMode, accounting_mode, 2)

/* ECC is on and the rest of the catalogue is not modelled. NVML has no field for device memory or how busy a device is. */
enum { FIELD_ECC_CURRENT = 1, FIELD_ECC_PENDING = 2, FIELD_COUNT = 280 };

NVMLAPI nvmlReturn nvmlDeviceGetFieldValues(nvmlDevice device, int count, nvmlFieldValue *values)
{
    NVML_TRY(nvml_check(device));
    NVML_REQUIRE(values != NULL && count > 0, NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++) {
        nvmlFieldValue *value = &values[i];
        bool known = value->field == FIELD_ECC_CURRENT || value->field == FIELD_ECC_PENDING;
        value->time_us = (long long)nvml_time_us();
        value->latency_us = 0;
        value->type = NVML_VALUE_UNSIGNED;
        value->value.number = 1;
        value->code = known ? NVML_SUCCESS
                            : value->field - 1 < FIELD_COUNT ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT;
    }
    return NVML_SUCCESS;
}
