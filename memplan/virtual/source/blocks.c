/* The blocks that PyTorch's caching allocator hands out and takes back.
 *
 * The allocator keeps its segments, so CUDA never learns that a block has a new owner, and
 * what the host once copied there would be read as the new owner's. PyTorch tells its
 * profiler of each block, whether one runs or not (c10/core/Allocator.h,
 * reportMemoryUsageToProfiler): this library is ahead of libc10 in the order of symbols,
 * hears it first and passes it on. Python's callbacks for allocations are of no use here:
 * they lose an exception that is on its way while a tensor is freed. */
#define _GNU_SOURCE
#include "device.h"

#include <dlfcn.h>
#include <pthread.h>

#define REPORT _ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE
#define NAME_OF(symbol) #symbol
#define NAME(symbol) NAME_OF(symbol)
#define CUDA_DEVICE 1 /* c10::DeviceType::CUDA */

/* c10::Device */
typedef struct {
  int8_t type;
  int8_t index;
} place;

typedef void report_function(void *, int64_t, size_t, size_t, place);

static report_function *pytorchs_own;
static pthread_once_t looked_up = PTHREAD_ONCE_INIT;

static void look_up(void)
{
  void *library = dlopen("libc10.so", RTLD_NOW | RTLD_NOLOAD);
  if (library)
    pytorchs_own = (report_function *)dlsym(library, NAME(REPORT));
}

VD_EXPORT report_function REPORT;

/* `bytes` is negative where a block is freed. */
void REPORT(void *block, int64_t bytes, size_t allocated, size_t reserved, place where)
{
  if (where.type == CUDA_DEVICE) {
    if (bytes > 0)
      vd_forget(block);
    else
      vd_forget_freed(block);
  }
  pthread_once(&looked_up, look_up);
  if (pytorchs_own)
    pytorchs_own(block, bytes, allocated, reserved, where);
}
