/*
 * capture_mode.c: see capture_mode.h.
 */
#include "capture_mode.h"

#include "real.h"

int fg_capture_relax(void)
{
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    return FG_CALL(cuThreadExchangeStreamCaptureMode, &mode) == CUDA_SUCCESS ? mode : CU_STREAM_CAPTURE_MODE_RELAXED;
}

void fg_capture_restore(int mode)
{
    if (mode != CU_STREAM_CAPTURE_MODE_RELAXED)
        FG_CALL(cuThreadExchangeStreamCaptureMode, &mode);
}
