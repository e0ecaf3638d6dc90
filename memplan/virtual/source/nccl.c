/* NCCL communicators without peers (nccl.h): this process plays one rank, and the
 * others exist by number alone. Each communicator is charged the card's `nccl_bytes`,
 * which PyTorch's allocator does not see on a card either. */
#include "nccl.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VD_NCCL_VERSION
#define VD_NCCL_VERSION 0
#endif

#define NCCL_UNIQUE_ID_BYTES 128
#define NCCL_SPLIT_NOCOLOR (-1)

/* ncclCommMemStat_t */
enum { ncclStatGpuMemPersist = 2, ncclStatGpuMemTotal = 3 };

typedef struct {
  char bytes[NCCL_UNIQUE_ID_BYTES];
} unique_id;

/* ---- making them ---- */

static int create(communicator **made, int num_ranks, int rank, int device)
{
  if (num_ranks < 1 || rank < 0 || rank >= num_ranks)
    return ncclInvalidArgument;
  size_t bytes = vd_the_card()->nccl_bytes;
  if (vd_charge(device, bytes) != 0)
    return ncclUnhandledCudaError;
  *made = malloc(sizeof **made);
  if (*made == NULL) {
    vd_discharge(device, bytes);
    return ncclSystemError;
  }
  **made = (communicator){num_ranks, rank, device, bytes};
  return ncclSuccess;
}

VD_EXPORT int ncclCommInitRankConfig(communicator **made, int num_ranks, unique_id id,
                                     int rank, void *configuration)
{
  (void)id, (void)configuration;
  return create(made, num_ranks, rank, vd_current_device());
}

VD_EXPORT int ncclCommInitRank(communicator **made, int num_ranks, unique_id id,
                               int rank)
{
  return ncclCommInitRankConfig(made, num_ranks, id, rank, NULL);
}

VD_EXPORT int ncclCommInitRankScalable(communicator **made, int num_ranks, int rank,
                                       int num_ids, const unique_id *ids,
                                       void *configuration)
{
  (void)num_ids, (void)ids, (void)configuration;
  return create(made, num_ranks, rank, vd_current_device());
}

/* One process that holds every rank, a device each: `devices` or the first of them. */
VD_EXPORT int ncclCommInitAll(communicator **made, int num_devices, const int *devices)
{
  for (int i = 0; i < num_devices; i++) {
    int device = devices != NULL ? devices[i] : i;
    int status = create(&made[i], num_devices, i, device);
    if (status != ncclSuccess)
      return status;
  }
  return ncclSuccess;
}

/* PyTorch passes the rank in the new group as the key. How many ranks chose this color
 * only they know: at least those up to ours are taken to be there. */
VD_EXPORT int ncclCommSplit(const communicator *parent, int color, int key,
                            communicator **made, void *configuration)
{
  (void)configuration;
  if (color == NCCL_SPLIT_NOCOLOR) {
    *made = NULL;
    return ncclSuccess;
  }
  vd_unsupported("ncclCommSplit (how many ranks the new group has)");
  int rank = key >= 0 && key < parent->num_ranks ? key : parent->rank;
  return create(made, rank + 1, rank, parent->device);
}

VD_EXPORT int ncclCommShrink(const communicator *parent, const int *excluded,
                             int num_excluded, communicator **made, void *configuration,
                             int flags)
{
  (void)configuration, (void)flags;
  int before = 0;
  for (int i = 0; i < num_excluded; i++)
    before += excluded[i] < parent->rank;
  return create(made, parent->num_ranks - num_excluded, parent->rank - before,
                parent->device);
}

/* Ranks that were there keep their number and pass -1. */
VD_EXPORT int ncclCommGrow(const communicator *parent, int num_ranks,
                           const unique_id *id, int rank, communicator **made,
                           void *configuration)
{
  (void)id, (void)configuration;
  if (parent == NULL)
    return create(made, num_ranks, rank, vd_current_device());
  return create(made, num_ranks, rank < 0 ? parent->rank : rank, parent->device);
}

/* ---- ending them ---- */

VD_EXPORT int ncclCommDestroy(communicator *ended)
{
  if (ended != NULL) {
    vd_discharge(ended->device, ended->charged_bytes);
    free(ended);
  }
  return ncclSuccess;
}

VD_EXPORT int ncclCommAbort(communicator *ended)
{
  return ncclCommDestroy(ended);
}

VD_EXPORT int ncclCommFinalize(communicator *used)
{
  (void)used;
  return ncclSuccess;
}

/* ---- what they are ---- */

VD_EXPORT int ncclCommCount(const communicator *asked, int *num_ranks)
{
  *num_ranks = asked->num_ranks;
  return ncclSuccess;
}

VD_EXPORT int ncclCommUserRank(const communicator *asked, int *rank)
{
  *rank = asked->rank;
  return ncclSuccess;
}

VD_EXPORT int ncclCommCuDevice(const communicator *asked, int *device)
{
  *device = asked->device;
  return ncclSuccess;
}

VD_EXPORT int ncclCommGetAsyncError(const communicator *asked, int *error)
{
  (void)asked;
  *error = ncclSuccess;
  return ncclSuccess;
}

VD_EXPORT int ncclCommMemStats(const communicator *asked, int statistic,
                               uint64_t *value)
{
  int counted = statistic == ncclStatGpuMemPersist || statistic == ncclStatGpuMemTotal;
  *value = counted ? asked->charged_bytes : 0;
  return ncclSuccess;
}

VD_EXPORT int ncclGetVersion(int *version)
{
  *version = VD_NCCL_VERSION;
  return ncclSuccess;
}

static void fill_id(unique_id *id)
{
  static unsigned made;
  unsigned count = __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED);
  int process = (int)getpid();
  memset(id, 0, sizeof *id);
  memcpy(id->bytes, &process, sizeof process);
  memcpy(id->bytes + sizeof process, &count, sizeof count);
}

VD_EXPORT int ncclGetUniqueId(unique_id *id)
{
  fill_id(id);
  return ncclSuccess;
}

VD_EXPORT int ncclCommGetUniqueId(const communicator *parent, unique_id *id)
{
  (void)parent;
  fill_id(id);
  return ncclSuccess;
}

VD_EXPORT const char *ncclGetErrorString(int result)
{
  switch (result) {
  case ncclSuccess:
    return "no error";
  case ncclUnhandledCudaError:
    return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
  case ncclSystemError:
    return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
  case ncclInternalError:
    return "internal error - please report this issue to the NCCL developers";
  case ncclInvalidArgument:
    return "invalid argument (run with NCCL_DEBUG=WARN for details)";
  case ncclInvalidUsage:
    return "invalid usage (run with NCCL_DEBUG=WARN for details)";
  case ncclRemoteError:
    return "remote process exited or there was a network error";
  case ncclInProgress:
    return "NCCL operation in progress";
  case ncclTimeout:
    return "NCCL operation timed out";
  default:
    return "unknown result code";
  }
}

VD_EXPORT const char *ncclGetLastError(const communicator *asked)
{
  (void)asked;
  return "";
}

/* ---- memory ---- */

VD_EXPORT int ncclMemAlloc(void **start, size_t bytes)
{
  *start = vd_allocate(vd_current_device(), bytes, VD_DEVICE);
  return *start != NULL ? ncclSuccess : ncclUnhandledCudaError;
}

VD_EXPORT int ncclMemFree(void *start)
{
  return vd_release(start) == 0 ? ncclSuccess : ncclInvalidArgument;
}

/* The handle of a registered buffer, and its window, is the buffer's address. */
VD_EXPORT int ncclCommRegister(const communicator *used, void *buffer, size_t bytes,
                               void **registered)
{
  (void)used, (void)bytes;
  *registered = buffer;
  return ncclSuccess;
}

VD_EXPORT int ncclCommDeregister(const communicator *used, void *registered)
{
  (void)used, (void)registered;
  return ncclSuccess;
}

VD_EXPORT int ncclCommWindowRegister(const communicator *used, void *buffer,
                                     size_t bytes, void **window, int flags)
{
  (void)used, (void)bytes, (void)flags;
  *window = buffer;
  return ncclSuccess;
}

VD_EXPORT int ncclCommWindowDeregister(const communicator *used, void *window)
{
  (void)used, (void)window;
  return ncclSuccess;
}

VD_EXPORT int ncclWinGetUserPtr(const communicator *used, void *window, void **buffer)
{
  (void)used;
  *buffer = window;
  return ncclSuccess;
}
