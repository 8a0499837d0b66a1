// Private to the files that know oneDNN.
#ifndef LOCKSTEP_DEVICE_CPU_ONEDNN_STATE_H
#define LOCKSTEP_DEVICE_CPU_ONEDNN_STATE_H

#include <oneapi/dnnl/dnnl.h>

#include "memory.h"
#include "onednn.h"

typedef struct LsProduct LsProduct;
typedef struct LsConvolver LsConvolver;

enum { LS_CONVOLVER_LISTS = 64 };

struct LsOnednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int threads;
    LsProduct *products; // open addressing, at most half full
    size_t slots, used;
    LsConvolver *convolvers[LS_CONVOLVER_LISTS]; // lists, by hash
    LsCpuMemory scratchpad;                      // lent to one primitive at a time
    LsCpuMemory packed;                          // filters in the library's layout, of one at a time
};

// LS_OK, or what went wrong: "oneDNN cannot `action`".
LsStatus ls_onednn_check(dnnl_status_t status, const char *action);
#define TRY_DNNL(call, action) LS_TRY(ls_onednn_check((call), (action)))

void ls_onednn_forget_convolutions(LsOnednn *onednn);

#endif
