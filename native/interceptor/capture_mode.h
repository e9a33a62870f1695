/*
 * capture_mode.h: questions to the driver in the middle of a program's calls.
 *
 * While a thread captures a stream in global mode, calls that it did not expect from other threads break its capture.
 * Whoever asks the driver something of its own brackets that with these two.
 */
#ifndef FRACGPU_INTERCEPTOR_CAPTURE_MODE_H
#define FRACGPU_INTERCEPTOR_CAPTURE_MODE_H

/* Let this thread ask; returns what fg_capture_restore is to be given. */
int fg_capture_relax(void);
void fg_capture_restore(int mode);

#endif
