/* Memory of a device and the processes that hold it (nvml.h). Each process plays its
 * own card, so only what this one holds is known. What the driver keeps for itself is
 * not in `total_bytes`, which is the CUDA total, and is answered as none. */
#include "nvml.h"

#include <unistd.h>

#define NOT_IN_AN_INSTANCE 0xFFFFFFFFu

/* nvmlMemory_t */
typedef struct {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
} memory;

/* nvmlMemory_v2_t */
typedef struct {
  unsigned version;
  unsigned long long total;
  unsigned long long reserved;
  unsigned long long free;
  unsigned long long used;
} memory_v2;

/* nvmlProcessInfo_v1_t */
typedef struct {
  unsigned process;
  unsigned long long used_bytes;
} process_v1;

/* nvmlProcessInfo_v2_t, the third version's too */
typedef struct {
  unsigned process;
  unsigned long long used_bytes;
  unsigned gpu_instance;
  unsigned compute_instance;
} process_v2;

static unsigned long long used_bytes(int physical)
{
  int device = vd_device_of(physical);
  if (device < 0 || !vd_device_in_use(device))
    return 0;
  return vd_used_bytes(device);
}

VD_EXPORT int nvmlDeviceGetMemoryInfo(void *handle, memory *answer)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  if (status != NVML_SUCCESS)
    return status;
  answer->total = vd_the_card()->total_bytes;
  answer->used = used_bytes(physical);
  answer->free = answer->total - answer->used;
  return NVML_SUCCESS;
}

VD_EXPORT int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2 *answer)
{
  memory simple;
  int status = nvmlDeviceGetMemoryInfo(handle, &simple);
  if (status == NVML_SUCCESS)
    *answer = (memory_v2){answer->version, simple.total, 0, simple.free, simple.used};
  return status;
}

/* ---- processes: this one, once it uses the device ---- */

/* `count` is the room there is, and becomes the number there are. */
static int count_processes(void *handle, unsigned *count, const void *room,
                           unsigned long long *used)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  if (status != NVML_SUCCESS)
    return status;
  *used = used_bytes(physical);
  unsigned there = *used > 0 ? 1 : 0;
  int fits = there == 0 || (room != NULL && *count >= there);
  *count = there;
  return fits ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

VD_EXPORT int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count,
                                                   process_v1 *processes)
{
  unsigned long long used;
  int status = count_processes(handle, count, processes, &used);
  if (status == NVML_SUCCESS && *count > 0)
    processes[0] = (process_v1){(unsigned)getpid(), used};
  return status;
}

VD_EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count,
                                                      process_v2 *processes)
{
  unsigned long long used;
  int status = count_processes(handle, count, processes, &used);
  if (status == NVML_SUCCESS && *count > 0) {
    processes[0] =
        (process_v2){(unsigned)getpid(), used, NOT_IN_AN_INSTANCE, NOT_IN_AN_INSTANCE};
  }
  return status;
}

VD_EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count,
                                                      process_v2 *processes)
{
  return nvmlDeviceGetComputeRunningProcesses_v2(handle, count, processes);
}

static int no_processes(void *handle, unsigned *count)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  if (status == NVML_SUCCESS)
    *count = 0;
  return status;
}

#define HAS_NO_PROCESSES(function)                                       \
  VD_EXPORT int function(void *handle, unsigned *count, void *processes) \
  {                                                                      \
    (void)processes;                                                     \
    return no_processes(handle, count);                                  \
  }

HAS_NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses)
HAS_NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
HAS_NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)
HAS_NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses)
HAS_NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2)
HAS_NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3)
