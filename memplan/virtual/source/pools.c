/* Memory pools: cudaMallocAsync. What a pool has taken it keeps until it is trimmed or,
 * below its release threshold, until a synchronization; here, until it is trimmed or the
 * threshold lets it go at once. How a card's driver lays out a pool is not published: this
 * one takes units of 32 MiB and puts each request into the lowest hole. */
#include "ordered.h"
#include "runtime.h"
#include "space.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define UNIT ((size_t)32 << 20)
#define GRAIN ((size_t)512)

typedef struct vd_pool {
  int device;
  vd_space space;
  uint64_t release_threshold;
  uint64_t reserved, reserved_high, used, used_high;
  uint64_t reuse[3]; /* settings without effect here */
} vd_pool;

typedef struct {
  vd_node node; /* its key is the start */
  vd_pool *pool;
  size_t bytes;
} allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vd_node *allocations;
static vd_pool default_pools[VD_MAX_DEVICES];
static vd_pool *current_pools[VD_MAX_DEVICES];

/* With the lock held */
static vd_pool *default_pool(int device)
{
  default_pools[device].device = device;
  return &default_pools[device];
}

static vd_pool *current_pool(int device)
{
  return current_pools[device] ? current_pools[device] : default_pool(device);
}

/* ---- allocating ---- */

static uint64_t greater(uint64_t a, uint64_t b)
{
  return a > b ? a : b;
}

/* 0: the device has no room */
static uintptr_t take(vd_pool *pool, size_t bytes)
{
  uintptr_t start = vd_take_hole(&pool->space, bytes);
  if (start)
    return start;
  size_t unit = (bytes + UNIT - 1) / UNIT * UNIT;
  start = (uintptr_t)vd_allocate_unit(pool->device, unit);
  if (!start)
    return 0;
  vd_add_unit(&pool->space, (vd_span){start, unit}, bytes);
  pool->reserved += unit;
  pool->reserved_high = greater(pool->reserved_high, pool->reserved);
  return start;
}

static void release_unit(vd_pool *pool, vd_span unit)
{
  vd_release_unit((void *)unit.start);
  pool->reserved -= unit.bytes;
}

/* Units that are one hole leave the space; whether the pool keeps them is its affair. */
static void give(vd_pool *pool, uintptr_t start, size_t bytes)
{
  vd_span unit = vd_give_hole(&pool->space, start, bytes);
  if (!unit.bytes)
    return;
  if (pool->reserved > pool->release_threshold)
    release_unit(pool, unit);
  else
    vd_add_unit(&pool->space, unit, 0);
}

static cudaError_t allocate(vd_pool *pool, void **pointer, size_t bytes)
{
  allocation *new = calloc(1, sizeof *new);
  if (!new)
    return cudaErrorMemoryAllocation;
  new->pool = pool;
  new->bytes = (bytes + GRAIN - 1) / GRAIN * GRAIN;
  new->node.key = take(pool, new->bytes);
  if (!new->node.key) {
    free(new);
    return cudaErrorMemoryAllocation;
  }
  vd_insert(&allocations, &new->node);
  pool->used += new->bytes;
  pool->used_high = greater(pool->used_high, pool->used);
  *pointer = (void *)new->node.key;
  return cudaSuccess;
}

/* From the device's current pool where none is given */
static cudaError_t allocate_from(vd_pool *pool, void **pointer, size_t bytes)
{
  int device = vd_current_device();
  cudaError_t error = vd_check_device(device);
  *pointer = NULL;
  if (error || !bytes)
    return error;
  vd_use_device(device);
  pthread_mutex_lock(&lock);
  error = allocate(pool ? pool : current_pool(device), pointer, bytes);
  pthread_mutex_unlock(&lock);
  return error;
}

VD_EXPORT cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream)
{
  return vd_result(allocate_from(NULL, pointer, bytes));
}

VD_EXPORT cudaError_t cudaMallocFromPoolAsync(void **pointer, size_t bytes,
                                              cudaMemPool_t pool, cudaStream_t stream)
{
  return vd_result(allocate_from(pool, pointer, bytes));
}

int vd_free_from_pool(void *pointer)
{
  pthread_mutex_lock(&lock);
  allocation *freed = (allocation *)vd_remove(&allocations, (uintptr_t)pointer);
  if (freed) {
    vd_fill(pointer, 0, freed->bytes);
    freed->pool->used -= freed->bytes;
    give(freed->pool, freed->node.key, freed->bytes);
  }
  pthread_mutex_unlock(&lock);
  free(freed);
  return freed ? 0 : -1;
}

/* What cudaMalloc gave may be freed here, and what a pool gave by cudaFree. */
VD_EXPORT cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
  if (pointer && vd_free_from_pool(pointer) && vd_release(pointer))
    return vd_result(cudaErrorInvalidValue);
  return cudaSuccess;
}

/* ---- pools ---- */

VD_EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    *pool = default_pool(device);
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *pool, int device)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    *pool = current_pool(device);
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    current_pools[device] = pool;
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool,
                                        const cudaMemPoolProps *properties)
{
  enum { cudaMemLocationTypeDevice = 1 };
  if (properties->location.type != cudaMemLocationTypeDevice)
    return vd_result(cudaErrorNotSupported);
  cudaError_t error = vd_check_device(properties->location.id);
  if (error)
    return vd_result(error);
  *pool = calloc(1, sizeof **pool);
  if (!*pool)
    return vd_result(cudaErrorMemoryAllocation);
  (*pool)->device = properties->location.id;
  return cudaSuccess;
}

/* Gives back units in which nothing is, as long as more than `keep_bytes` are left. */
static void trim(vd_pool *pool, uint64_t keep_bytes)
{
  vd_space *space = &pool->space;
  for (size_t i = space->units.count; i-- > 0 && pool->reserved > keep_bytes;) {
    vd_span unit = space->units.at[i];
    for (size_t k = 0; k < space->holes.count; k++) {
      if (space->holes.at[k].start != unit.start || space->holes.at[k].bytes != unit.bytes)
        continue;
      vd_remove_span(&space->holes, k);
      vd_remove_span(&space->units, i);
      release_unit(pool, unit);
      break;
    }
  }
}

VD_EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep_bytes)
{
  pthread_mutex_lock(&lock);
  trim(pool, keep_bytes);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

/* A pool from which something is still allocated lives on until that is freed, which on
 * this device is for ever: it is small. */
VD_EXPORT cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool)
{
  pthread_mutex_lock(&lock);
  trim(pool, 0);
  pool->release_threshold = 0;
  if (current_pools[pool->device] == pool)
    current_pools[pool->device] = NULL;
  if (!pool->used)
    free(pool);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const void *descriptors,
                                           size_t count)
{
  return cudaSuccess;
}

/* ---- attributes ---- */

enum { /* cudaMemPoolAttr; the first three are settings of reuse */
  LAST_REUSE = 3,
  RELEASE_THRESHOLD = 4,
  RESERVED = 5,
  RESERVED_HIGH = 6,
  USED = 7,
  USED_HIGH = 8,
};

VD_EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, int attribute, void *value)
{
  const uint64_t values[] = {[RELEASE_THRESHOLD] = pool->release_threshold,
                             [RESERVED] = pool->reserved,
                             [RESERVED_HIGH] = pool->reserved_high,
                             [USED] = pool->used,
                             [USED_HIGH] = pool->used_high};
  if (attribute < 1 || attribute > USED_HIGH)
    return vd_result(cudaErrorInvalidValue);
  if (attribute <= LAST_REUSE)
    *(int *)value = (int)pool->reuse[attribute - 1];
  else
    *(uint64_t *)value = values[attribute];
  return cudaSuccess;
}

/* Of the high marks only a reset is allowed. */
VD_EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, int attribute, void *value)
{
  pthread_mutex_lock(&lock);
  cudaError_t error = cudaSuccess;
  if (attribute >= 1 && attribute <= LAST_REUSE)
    pool->reuse[attribute - 1] = (uint64_t)*(int *)value;
  else if (attribute == RELEASE_THRESHOLD)
    pool->release_threshold = *(uint64_t *)value;
  else if (attribute == RESERVED_HIGH)
    pool->reserved_high = pool->reserved;
  else if (attribute == USED_HIGH)
    pool->used_high = pool->used;
  else
    error = cudaErrorInvalidValue;
  pthread_mutex_unlock(&lock);
  return vd_result(error);
}

/* Memory that graphs allocate: none do here. */
VD_EXPORT cudaError_t cudaDeviceGetGraphMemAttribute(int device, int attribute, void *value)
{
  *(uint64_t *)value = 0;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceSetGraphMemAttribute(int device, int attribute, void *value)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceGraphMemTrim(int device)
{
  return cudaSuccess;
}
