/* multicast.c: not modelled yet: no object can be made. */
#include "physical.h"

void multicast_dispose(struct multicast *multicast)
{
    (void)multicast;
}
