#include "base/thread.h"

#include <sched.h>
#include <string.h>

void ls_thread_unbind(void)
{
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    sched_setaffinity(0, sizeof all, &all);
}
