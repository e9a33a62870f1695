/*
 * export_table.c: cuGetExportTable hands out NVIDIA's private function tables. The model has none.
 *
 * NVIDIA's libcudart asks for several and, through one of them, has the driver prove that it is NVIDIA's own. A model
 * is not, and does not pretend to be: libcudart reports an error on it, programs of the driver API run.
 */
#include "driver.h"

CUAPI CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    FAULT_POINT();
    NOT_NULL(table);
    NOT_NULL(id);
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND;
}
