/* The CUDA runtime's memory: device, pinned, managed, registered, and of other processes.
 * Pools are in pools.c, copies in runtime_copies.c. */
#define _GNU_SOURCE
#include "runtime.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- allocating ---- */

static cudaError_t allocate(void **pointer, size_t bytes, vd_kind kind)
{
  int device = vd_current_device();
  cudaError_t error = vd_check_device(device);
  if (error)
    return error;
  vd_use_device(device);
  *pointer = bytes ? vd_allocate(device, bytes, kind) : NULL;
  return bytes && !*pointer ? cudaErrorMemoryAllocation : cudaSuccess;
}

VD_EXPORT cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
  return vd_result(pointer ? allocate(pointer, bytes, VD_DEVICE) : cudaErrorInvalidValue);
}

VD_EXPORT cudaError_t cudaMallocPitch(void **pointer, size_t *pitch, size_t width,
                                      size_t height)
{
  *pitch = (width + 511) / 512 * 512; /* TEXTURE_ALIGNMENT */
  return vd_result(allocate(pointer, *pitch * height, VD_DEVICE));
}

VD_EXPORT cudaError_t cudaMallocManaged(void **pointer, size_t bytes, unsigned flags)
{
  if (!bytes)
    return vd_result(cudaErrorInvalidValue);
  return vd_result(allocate(pointer, bytes, VD_MANAGED));
}

VD_EXPORT cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
  return vd_result(allocate(pointer, bytes, VD_PINNED));
}

VD_EXPORT cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
  return vd_result(allocate(pointer, bytes, VD_PINNED));
}

/* Without a pointer it makes the context, which programs use it for. */
VD_EXPORT cudaError_t cudaFree(void *pointer)
{
  cudaError_t error = vd_check_device(vd_current_device());
  if (error)
    return vd_result(error);
  vd_use_device(vd_current_device());
  if (pointer && vd_release(pointer) && vd_free_from_pool(pointer))
    return vd_result(cudaErrorInvalidValue);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaFreeHost(void *pointer)
{
  if (pointer && vd_release(pointer))
    return vd_result(cudaErrorInvalidValue);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
  int device = vd_current_device();
  cudaError_t error = vd_check_device(device);
  if (error)
    return vd_result(error);
  vd_use_device(device);
  size_t used = vd_used_bytes(device);
  *total_bytes = vd_the_card()->total_bytes;
  *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
  return cudaSuccess;
}

/* ---- host memory that the program pins itself ---- */

VD_EXPORT cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned flags)
{
  if (!pointer || !bytes)
    return vd_result(cudaErrorInvalidValue);
  if (vd_add_range(pointer, bytes, VD_PINNED, vd_current_device()))
    return vd_result(cudaErrorHostMemoryAlreadyRegistered);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaHostUnregister(void *pointer)
{
  return vd_result(vd_drop_range(pointer) ? cudaErrorHostMemoryNotRegistered
                                          : cudaSuccess);
}

VD_EXPORT cudaError_t cudaHostGetDevicePointer(void **device_pointer, void *pointer,
                                               unsigned flags)
{
  vd_range range;
  *device_pointer = pointer;
  return vd_result(vd_find(pointer, &range) ? cudaSuccess : cudaErrorInvalidValue);
}

VD_EXPORT cudaError_t cudaHostGetFlags(unsigned *flags, void *pointer)
{
  vd_range range;
  *flags = 0;
  return vd_result(vd_find(pointer, &range) ? cudaSuccess : cudaErrorInvalidValue);
}

/* ---- asking about pointers ---- */

VD_EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes,
                                               const void *pointer)
{
  vd_range range;
  memset(attributes, 0, sizeof *attributes);
  if (!vd_find(pointer, &range)) {
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->device = -2; /* cudaInvalidDeviceId */
    attributes->hostPointer = (void *)pointer;
    return cudaSuccess;
  }
  attributes->type = range.kind == VD_DEVICE   ? cudaMemoryTypeDevice
                     : range.kind == VD_PINNED ? cudaMemoryTypeHost
                                               : cudaMemoryTypeManaged;
  attributes->device = range.device;
  attributes->devicePointer = (void *)pointer;
  attributes->hostPointer = range.kind == VD_DEVICE ? NULL : (void *)pointer;
  return cudaSuccess;
}

/* ---- hints for managed memory, which here never moves. CUDA 13 names the place in
 * another way, and CUDA 12 has both ways; neither is read. ---- */

VD_EXPORT cudaError_t cudaMemPrefetchAsync(const void *pointer, size_t bytes)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemPrefetchAsync_v2(const void *pointer, size_t bytes)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemAdvise(const void *pointer, size_t bytes)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemAdvise_v2(const void *pointer, size_t bytes)
{
  return cudaSuccess;
}

/* ---- memory of other processes: addresses, charged where it was allocated ---- */

typedef struct {
  uintptr_t start;
  size_t bytes;
  int device, pid;
} shared_memory;

_Static_assert(sizeof(shared_memory) <= sizeof(cudaIpcMemHandle_t), "fits the handle");

VD_EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *pointer)
{
  vd_range range;
  if (!vd_find(pointer, &range) || range.kind != VD_DEVICE)
    return vd_result(cudaErrorInvalidValue);
  shared_memory shared = {range.start, range.bytes, range.device, getpid()};
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &shared, sizeof shared);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaIpcOpenMemHandle(void **pointer, cudaIpcMemHandle_t handle,
                                           unsigned flags)
{
  shared_memory shared;
  memcpy(&shared, &handle, sizeof shared);
  if (shared.pid == getpid()) /* a card refuses this, too */
    return vd_result(cudaErrorInvalidResourceHandle);
  void *start = vd_reserve_addresses(shared.bytes, 0);
  if (!start || vd_add_range(start, shared.bytes, VD_DEVICE, vd_current_device()))
    return vd_result(cudaErrorMemoryAllocation);
  *pointer = start;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaIpcCloseMemHandle(void *pointer)
{
  vd_range range;
  if (!vd_find(pointer, &range) || vd_drop_range(pointer) ||
      vd_free_addresses(pointer, range.bytes))
    return vd_result(cudaErrorInvalidValue);
  return cudaSuccess;
}
