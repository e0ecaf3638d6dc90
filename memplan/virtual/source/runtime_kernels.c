/* The CUDA runtime's kernels: what the host code made by nvcc registers when a library is
 * loaded, and what it launches. */
#include "ordered.h"
#include "runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- registering ---- */

VD_EXPORT void **__cudaRegisterFatBinary(void *fat_binary_wrapper)
{
  return (void **)vd_new_module(fat_binary_wrapper);
}

VD_EXPORT void __cudaRegisterFatBinaryEnd(void **module)
{
}

/* Modules stay: nobody asks for one whose library is gone. */
VD_EXPORT void __cudaUnregisterFatBinary(void **module)
{
}

VD_EXPORT char __cudaInitModule(void **module)
{
  return 1;
}

VD_EXPORT void __cudaRegisterFunction(void **module, const void *host_function,
                                      char *device_function, const char *name,
                                      int thread_limit, void *thread_id, void *block_id,
                                      void *block_dimensions, void *grid_dimensions,
                                      int *warp_size)
{
  vd_register_kernel((vd_module *)module, host_function, name);
}

/* ---- variables of device code ---- */

typedef struct {
  vd_node node; /* its key is the address of the host's variable of that name */
  size_t bytes;
  void *address; /* on the device, once somebody asked */
} symbol;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vd_node *symbols;

VD_EXPORT void __cudaRegisterVar(void **module, const void *host_variable,
                                 char *device_address, const char *name, int is_external,
                                 size_t bytes, int is_constant, int is_global)
{
  symbol *new = calloc(1, sizeof *new);
  if (!new)
    return;
  new->node.key = (uintptr_t)host_variable;
  new->bytes = bytes;
  pthread_mutex_lock(&lock);
  free(vd_remove(&symbols, new->node.key));
  vd_insert(&symbols, &new->node);
  pthread_mutex_unlock(&lock);
}

/* It lies in memory of its module, which on a card is part of the context. */
static void *address_of(symbol *s)
{
  if (!s->address) {
    s->address = vd_reserve_addresses(s->bytes, 0);
    if (s->address)
      vd_add_range(s->address, s->bytes, VD_DEVICE, vd_current_device());
  }
  return s->address;
}

static cudaError_t find_symbol(const void *host_variable, void **address, size_t *bytes)
{
  pthread_mutex_lock(&lock);
  symbol *found = (symbol *)vd_at_or_below(symbols, (uintptr_t)host_variable);
  if (found && found->node.key != (uintptr_t)host_variable)
    found = NULL;
  if (found) {
    *address = address_of(found);
    *bytes = found->bytes;
  }
  pthread_mutex_unlock(&lock);
  return vd_result(found ? cudaSuccess : cudaErrorInvalidSymbol);
}

VD_EXPORT cudaError_t cudaGetSymbolAddress(void **address, const void *host_variable)
{
  size_t bytes;
  return find_symbol(host_variable, address, &bytes);
}

VD_EXPORT cudaError_t cudaGetSymbolSize(size_t *bytes, const void *host_variable)
{
  void *address;
  return find_symbol(host_variable, &address, bytes);
}

/* The address of so many bytes within a variable. */
static cudaError_t find_part(const void *host_variable, size_t offset, size_t bytes,
                             void **address)
{
  size_t room;
  cudaError_t error = find_symbol(host_variable, address, &room);
  if (error)
    return error;
  if (offset > room || bytes > room - offset)
    return vd_result(cudaErrorInvalidValue);
  *address = (char *)*address + offset;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemcpyToSymbol(const void *host_variable, const void *from,
                                         size_t bytes, size_t offset, int kind)
{
  void *to;
  cudaError_t error = find_part(host_variable, offset, bytes, &to);
  if (!error)
    vd_copy(to, from, bytes);
  return error;
}

VD_EXPORT cudaError_t cudaMemcpyToSymbolAsync(const void *host_variable, const void *from,
                                              size_t bytes, size_t offset, int kind,
                                              cudaStream_t stream)
{
  return cudaMemcpyToSymbol(host_variable, from, bytes, offset, kind);
}

VD_EXPORT cudaError_t cudaMemcpyFromSymbol(void *to, const void *host_variable,
                                           size_t bytes, size_t offset, int kind)
{
  void *from;
  cudaError_t error = find_part(host_variable, offset, bytes, &from);
  if (!error)
    vd_copy(to, from, bytes);
  return error;
}

VD_EXPORT cudaError_t cudaMemcpyFromSymbolAsync(void *to, const void *host_variable,
                                                size_t bytes, size_t offset, int kind,
                                                cudaStream_t stream)
{
  return cudaMemcpyFromSymbol(to, host_variable, bytes, offset, kind);
}

/* ---- launching ---- */

static cudaError_t launch(const void *function, const vd_launch_config *config)
{
  vd_kernel *kernel = vd_find_kernel(function);
  if (!kernel)
    return vd_result(cudaErrorInvalidDeviceFunction);
  return vd_result((cudaError_t)vd_launch(kernel, config));
}

VD_EXPORT cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block,
                                       void **arguments, size_t shared_bytes,
                                       cudaStream_t stream)
{
  vd_launch_config config = {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                             shared_bytes, stream, NULL, 0};
  return launch(function, &config);
}

VD_EXPORT cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid,
                                                  dim3 block, void **arguments,
                                                  size_t shared_bytes,
                                                  cudaStream_t stream)
{
  return cudaLaunchKernel(function, grid, block, arguments, shared_bytes, stream);
}

static vd_launch_config config_of(const cudaLaunchConfig_t *given)
{
  dim3 grid = given->gridDim, block = given->blockDim;
  return (vd_launch_config){{grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                            given->dynamicSmemBytes, given->stream, given->attrs,
                            given->numAttrs};
}

VD_EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *given,
                                          const void *function, void **arguments)
{
  vd_launch_config config = config_of(given);
  return launch(function, &config);
}

/* CUDA 13 asks once for a kernel's handle and launches by that. */
VD_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
  *kernel = vd_find_kernel(function);
  return vd_result(*kernel ? cudaSuccess : cudaErrorInvalidDeviceFunction);
}

VD_EXPORT cudaError_t cudaGetKernel(cudaKernel_t *kernel, const void *function)
{
  return __cudaGetKernel(kernel, function);
}

VD_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block,
                                         void **arguments, size_t shared_bytes,
                                         cudaStream_t stream)
{
  vd_launch_config config = {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                             shared_bytes, stream, NULL, 0};
  return vd_result((cudaError_t)vd_launch(kernel, &config));
}

/* What stands between <<< and >>> waits here until the stub of the kernel takes it. */
typedef struct {
  dim3 grid, block;
  size_t shared_bytes;
  void *stream;
} call_configuration;

enum { MAX_WAITING = 16 };
static __thread call_configuration waiting[MAX_WAITING];
static __thread int num_waiting;

VD_EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                               void *stream)
{
  if (num_waiting == MAX_WAITING)
    return 1;
  waiting[num_waiting++] = (call_configuration){grid, block, shared_bytes, stream};
  return 0;
}

VD_EXPORT cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block,
                                                 size_t *shared_bytes, void **stream)
{
  enum { cudaErrorMissingConfiguration = 52 };
  if (!num_waiting)
    return vd_result((cudaError_t)cudaErrorMissingConfiguration);
  call_configuration taken = waiting[--num_waiting];
  *grid = taken.grid;
  *block = taken.block;
  *shared_bytes = taken.shared_bytes;
  *stream = taken.stream;
  return cudaSuccess;
}

/* ---- attributes ---- */

VD_EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes,
                                            const void *function)
{
  vd_kernel *kernel = vd_find_kernel(function);
  if (!kernel)
    return vd_result(cudaErrorInvalidDeviceFunction);
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = vd_kernel_attribute(kernel, 0);
  attributes->numRegs = vd_kernel_attribute(kernel, 4);
  attributes->ptxVersion = vd_kernel_attribute(kernel, 5);
  attributes->binaryVersion = vd_kernel_attribute(kernel, 6);
  attributes->maxDynamicSharedSizeBytes = vd_kernel_attribute(kernel, 8);
  attributes->preferredShmemCarveout = vd_kernel_attribute(kernel, 9);
  attributes->nonPortableClusterSizeAllowed = vd_kernel_attribute(kernel, 14);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaFuncSetAttribute(const void *function, int attribute, int value)
{
  vd_kernel *kernel = vd_find_kernel(function);
  if (!kernel)
    return vd_result(cudaErrorInvalidDeviceFunction);
  return vd_result((cudaError_t)vd_set_kernel_attribute(kernel, attribute, value));
}

VD_EXPORT cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, int attribute,
                                                      int value, int device)
{
  return vd_result((cudaError_t)vd_set_kernel_attribute(kernel, attribute, value));
}

VD_EXPORT cudaError_t cudaFuncSetCacheConfig(const void *function, int config)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaFuncGetName(const char **name, const void *function)
{
  vd_kernel *kernel = vd_find_kernel(function);
  if (!kernel)
    return vd_result(cudaErrorInvalidDeviceFunction);
  *name = vd_kernel_name(kernel);
  return cudaSuccess;
}

/* ---- occupancy ---- */

VD_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks,
                                                                    const void *function,
                                                                    int block_size,
                                                                    size_t shared_bytes)
{
  *blocks = vd_occupancy(block_size, shared_bytes);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, const void *function, int block_size, size_t shared_bytes, unsigned flags)
{
  *blocks = vd_occupancy(block_size, shared_bytes);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *function,
                                                     const cudaLaunchConfig_t *given)
{
  vd_launch_config config = config_of(given);
  *clusters = vd_active_clusters(&config);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaOccupancyMaxPotentialClusterSize(int *size, const void *function,
                                                           const cudaLaunchConfig_t *given)
{
  *size = vd_the_card()->major >= 9 ? 8 : 1;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t *bytes,
                                                                const void *function,
                                                                int blocks, int block_size)
{
  const vd_card *card = vd_the_card();
  if (blocks < 1)
    return vd_result(cudaErrorInvalidValue);
  int room = card->shared_per_sm / blocks - card->shared_reserved;
  *bytes = (size_t)(room < card->shared_optin ? room : card->shared_optin);
  return cudaSuccess;
}
