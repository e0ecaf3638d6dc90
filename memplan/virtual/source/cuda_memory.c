/* The CUDA driver's memory: the calls of the runtime in another form, and virtual memory
 * management, which PyTorch's expandable segments are made of: addresses are reserved,
 * memory is created and charged, and mapped there in part or in whole. */
#include "driver.h"
#include "ordered.h"

#include <pthread.h>
#include <stdlib.h>

/* ---- allocating and asking ---- */

static CUresult allocate(void **pointer, size_t bytes, vd_kind kind)
{
  CUresult error = vd_driver_check(vd_current_device());
  if (error || !bytes)
    return error ? error : CUDA_ERROR_INVALID_VALUE;
  *pointer = vd_allocate(vd_current_device(), bytes, kind);
  return *pointer ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

VD_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
  return allocate((void **)pointer, bytes, VD_DEVICE);
}

VD_EXPORT CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags)
{
  return allocate((void **)pointer, bytes, VD_MANAGED);
}

VD_EXPORT CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
  return allocate(pointer, bytes, VD_PINNED);
}

VD_EXPORT CUresult cuMemAllocHost_v2(void **pointer, size_t bytes)
{
  return allocate(pointer, bytes, VD_PINNED);
}

VD_EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer)
{
  if (pointer && vd_release((void *)pointer))
    return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemFreeHost(void *pointer)
{
  return cuMemFree_v2((CUdeviceptr)pointer);
}

VD_EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
  int device = vd_current_device();
  CUresult error = vd_driver_check(device);
  if (error)
    return error;
  vd_use_device(device);
  size_t used = vd_used_bytes(device);
  *total_bytes = vd_the_card()->total_bytes;
  *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *start, size_t *bytes,
                                           CUdeviceptr pointer)
{
  vd_range range;
  if (!vd_find((void *)pointer, &range))
    return CUDA_ERROR_NOT_FOUND;
  if (start)
    *start = range.start;
  if (bytes)
    *bytes = range.bytes;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuPointerGetAttribute(void *value, int attribute, CUdeviceptr pointer)
{
  enum { CU_MEMORYTYPE_HOST = 1, CU_MEMORYTYPE_DEVICE = 2 };
  vd_range range;
  if (!vd_find((void *)pointer, &range))
    return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
  case 1: /* CONTEXT */
    *(CUcontext *)value = vd_context_of(range.device);
    return CUDA_SUCCESS;
  case 2: /* MEMORY_TYPE */
    *(int *)value = range.kind == VD_DEVICE ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
    return CUDA_SUCCESS;
  case 3: /* DEVICE_POINTER */
    *(CUdeviceptr *)value = pointer;
    return CUDA_SUCCESS;
  case 4: /* HOST_POINTER */
    if (range.kind == VD_DEVICE)
      return CUDA_ERROR_INVALID_VALUE;
    *(CUdeviceptr *)value = pointer;
    return CUDA_SUCCESS;
  case 7: /* BUFFER_ID */
    *(uint64_t *)value = range.start / VD_PAGE;
    return CUDA_SUCCESS;
  case 8: /* IS_MANAGED */
    *(unsigned *)value = range.kind == VD_MANAGED;
    return CUDA_SUCCESS;
  case 9: /* DEVICE_ORDINAL */
    *(int *)value = range.device;
    return CUDA_SUCCESS;
  case 11: /* RANGE_START_ADDR */
    *(CUdeviceptr *)value = range.start;
    return CUDA_SUCCESS;
  case 12: /* RANGE_SIZE */
    *(size_t *)value = range.bytes;
    return CUDA_SUCCESS;
  case 13: /* MAPPED */
    *(unsigned *)value = 1;
    return CUDA_SUCCESS;
  default:
    return CUDA_ERROR_NOT_SUPPORTED;
  }
}

/* ---- copies and fills ---- */

VD_EXPORT CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
  vd_copy((void *)to, (void *)from, bytes);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                 CUstream stream)
{
  return cuMemcpy(to, from, bytes);
}

VD_EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
  return cuMemcpy(to, (CUdeviceptr)from, bytes);
}

VD_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes,
                                        CUstream stream)
{
  return cuMemcpy(to, (CUdeviceptr)from, bytes);
}

VD_EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
  return cuMemcpy((CUdeviceptr)to, from, bytes);
}

VD_EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes,
                                        CUstream stream)
{
  return cuMemcpy((CUdeviceptr)to, from, bytes);
}

VD_EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
  return cuMemcpy(to, from, bytes);
}

VD_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes,
                                        CUstream stream)
{
  return cuMemcpy(to, from, bytes);
}

VD_EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char byte, size_t count)
{
  vd_fill((void *)to, byte, count);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t count,
                                   CUstream stream)
{
  return cuMemsetD8_v2(to, byte, count);
}

/* By copies that double: the pattern is one value of `width` bytes. */
static CUresult fill_with(CUdeviceptr to, const void *value, size_t width, size_t count)
{
  size_t bytes = width * count, done = width;
  vd_fill((void *)to, 0, bytes);
  if (!count || bytes > vd_the_card()->copy_limit)
    return CUDA_SUCCESS;
  vd_copy((void *)to, value, width);
  while (done < bytes) {
    size_t next = done < bytes - done ? done : bytes - done;
    vd_copy((void *)(to + done), (void *)to, next);
    done += next;
  }
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count)
{
  return fill_with(to, &value, sizeof value, count);
}

VD_EXPORT CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count)
{
  return fill_with(to, &value, sizeof value, count);
}

VD_EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count,
                                    CUstream stream)
{
  return cuMemsetD32_v2(to, value, count);
}

VD_EXPORT CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr to, uint32_t value,
                                           unsigned flags)
{
  vd_copy((void *)to, &value, sizeof value);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr to, uint64_t value,
                                           unsigned flags)
{
  vd_copy((void *)to, &value, sizeof value);
  return CUDA_SUCCESS;
}

/* ---- virtual memory management ---- */

/* Memory that was created: charged until nobody holds it and nothing maps it */
typedef struct vd_memory {
  CUmemAllocationProp properties;
  size_t bytes;
  int holders, mappings;
} vd_memory;

typedef struct {
  vd_node node; /* its key is the start */
  size_t bytes;
  vd_memory *memory;
} mapping;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vd_node *mappings;

VD_EXPORT CUresult cuMemGetAllocationGranularity(size_t *granularity,
                                                 const CUmemAllocationProp *properties,
                                                 int option)
{
  *granularity = VD_PAGE;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemAddressReserve(CUdeviceptr *start, size_t bytes, size_t alignment,
                                       CUdeviceptr wanted, uint64_t flags)
{
  if (!bytes || bytes % VD_PAGE)
    return CUDA_ERROR_INVALID_VALUE;
  *start = (CUdeviceptr)vd_reserve_addresses(bytes, alignment);
  return *start ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

VD_EXPORT CUresult cuMemAddressFree(CUdeviceptr start, size_t bytes)
{
  return vd_free_addresses((void *)start, bytes) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static int is_on_device(const vd_memory *memory)
{
  return memory->properties.location.type == CU_MEM_LOCATION_TYPE_DEVICE;
}

VD_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                               const CUmemAllocationProp *properties, uint64_t flags)
{
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_NOT_SUPPORTED; /* memory of the host in device addresses */
  CUresult error = vd_driver_check(properties->location.id);
  if (error || !bytes || bytes % VD_PAGE)
    return error ? error : CUDA_ERROR_INVALID_VALUE;
  if (vd_charge(properties->location.id, bytes))
    return CUDA_ERROR_OUT_OF_MEMORY;
  vd_memory *memory = calloc(1, sizeof *memory);
  if (!memory) {
    vd_discharge(properties->location.id, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  memory->properties = *properties;
  memory->bytes = bytes;
  memory->holders = 1;
  *handle = memory;
  return CUDA_SUCCESS;
}

static void free_if_unused(vd_memory *memory)
{
  if (memory->holders || memory->mappings)
    return;
  if (is_on_device(memory))
    vd_discharge(memory->properties.location.id, memory->bytes);
  free(memory);
}

VD_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
  pthread_mutex_lock(&lock);
  handle->holders--;
  free_if_unused(handle);
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemMap(CUdeviceptr start, size_t bytes, size_t offset,
                            CUmemGenericAllocationHandle handle, uint64_t flags)
{
  int device = handle->properties.location.id;
  mapping *new = calloc(1, sizeof *new);
  if (!new)
    return CUDA_ERROR_OUT_OF_MEMORY;
  if (vd_add_range((void *)start, bytes, VD_DEVICE, device)) { /* already mapped */
    free(new);
    return CUDA_ERROR_INVALID_VALUE;
  }
  new->node.key = start;
  new->bytes = bytes;
  new->memory = handle;
  pthread_mutex_lock(&lock);
  handle->mappings++;
  vd_insert(&mappings, &new->node);
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemUnmap(CUdeviceptr start, size_t bytes)
{
  pthread_mutex_lock(&lock);
  mapping *m;
  while ((m = (mapping *)vd_at_or_above(mappings, start)) && m->node.key < start + bytes) {
    vd_remove(&mappings, m->node.key);
    vd_drop_range((void *)m->node.key);
    m->memory->mappings--;
    free_if_unused(m->memory);
    free(m);
  }
  pthread_mutex_unlock(&lock);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuMemSetAccess(CUdeviceptr start, size_t bytes, const void *descriptors,
                                  size_t count)
{
  vd_range range;
  return vd_find((void *)start, &range) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

VD_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle,
                                               void *address)
{
  pthread_mutex_lock(&lock);
  mapping *m = (mapping *)vd_at_or_below(mappings, (uintptr_t)address);
  int is_mapped = m && (uintptr_t)address - m->node.key < m->bytes;
  if (is_mapped) {
    m->memory->holders++;
    *handle = m->memory;
  }
  pthread_mutex_unlock(&lock);
  return is_mapped ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

VD_EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties,
                                                          CUmemGenericAllocationHandle handle)
{
  *properties = handle->properties;
  return CUDA_SUCCESS;
}

/* Memory that was created is not shared with other processes. */
VD_EXPORT CUresult cuMemExportToShareableHandle(void *shareable,
                                                CUmemGenericAllocationHandle handle,
                                                int type, uint64_t flags)
{
  return CUDA_ERROR_NOT_SUPPORTED;
}

VD_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle,
                                                  void *shareable, int type)
{
  return CUDA_ERROR_NOT_SUPPORTED;
}

/* Multicast objects, which cards that CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED names have */
VD_EXPORT CUresult cuMulticastCreate(CUmemGenericAllocationHandle *handle,
                                     const void *properties)
{
  return CUDA_ERROR_NOT_SUPPORTED;
}
