/*
 * procaddress.h: from a function of the real library to the hook that stands for it.
 */
#ifndef FRACGPU_INTERCEPTOR_PROCADDRESS_H
#define FRACGPU_INTERCEPTOR_PROCADDRESS_H

/* The exported function that hooks `real`, or `real` itself. */
void *fg_route(void *real);

#endif
