/* The CUDA driver's code: modules that Triton and NVRTC make at run time. Whatever is asked
 * of one it has, and launches are those of the runtime. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

typedef struct vd_driver_module {
  char unused;
} vd_driver_module;

/* ---- modules, libraries and the linker ---- */

static CUresult load(CUmodule *module)
{
  *module = malloc(sizeof **module);
  return *module ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

VD_EXPORT CUresult cuModuleLoad(CUmodule *module, const char *path)
{
  return load(module);
}

VD_EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
  return load(module);
}

VD_EXPORT CUresult cuModuleLoadDataEx(CUmodule *module, const void *image,
                                      unsigned num_options, int *options, void **values)
{
  return load(module);
}

VD_EXPORT CUresult cuModuleLoadFatBinary(CUmodule *module, const void *image)
{
  return load(module);
}

VD_EXPORT CUresult cuModuleUnload(CUmodule module)
{
  free(module);
  return CUDA_SUCCESS;
}

static CUresult make_kernel(CUfunction *kernel, const char *name)
{
  *kernel = vd_new_kernel(name);
  return *kernel ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

VD_EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module,
                                       const char *name)
{
  return make_kernel(function, name);
}

/* Its variables are nowhere described. */
VD_EXPORT CUresult cuModuleGetGlobal_v2(CUdeviceptr *address, size_t *bytes,
                                        CUmodule module, const char *name)
{
  return CUDA_ERROR_NOT_FOUND;
}

VD_EXPORT CUresult cuLibraryLoadData(CUmodule *library, const void *code, int *jit_options,
                                     void **jit_values, unsigned num_jit_options,
                                     int *options, void **values, unsigned num_options)
{
  return load(library);
}

VD_EXPORT CUresult cuLibraryUnload(CUmodule library)
{
  free(library);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuLibraryGetKernel(CUfunction *kernel, CUmodule library,
                                      const char *name)
{
  return make_kernel(kernel, name);
}

/* A kernel of a library is its function, and a library its module. */
VD_EXPORT CUresult cuKernelGetFunction(CUfunction *function, CUfunction kernel)
{
  *function = kernel;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuLibraryGetModule(CUmodule *module, CUmodule library)
{
  *module = library;
  return CUDA_SUCCESS;
}

static char no_code[1]; /* what the linker makes, of which nothing is read */

VD_EXPORT CUresult cuLinkCreate_v2(unsigned num_options, int *options, void **values,
                                   void **state)
{
  *state = no_code;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuLinkAddData_v2(void *state, int type, void *data, size_t bytes,
                                    const char *name, unsigned num_options, int *options,
                                    void **values)
{
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuLinkComplete(void *state, void **code, size_t *bytes)
{
  *code = no_code;
  if (bytes)
    *bytes = sizeof no_code;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuLinkDestroy(void *state)
{
  return CUDA_SUCCESS;
}

/* ---- attributes ---- */

VD_EXPORT CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction function)
{
  *value = vd_kernel_attribute(function, attribute);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
  return (CUresult)vd_set_kernel_attribute(function, attribute, value);
}

VD_EXPORT CUresult cuKernelGetAttribute(int *value, int attribute, CUfunction kernel,
                                        CUdevice device)
{
  return cuFuncGetAttribute(value, attribute, kernel);
}

VD_EXPORT CUresult cuKernelSetAttribute(int attribute, int value, CUfunction kernel,
                                        CUdevice device)
{
  return cuFuncSetAttribute(kernel, attribute, value);
}

VD_EXPORT CUresult cuFuncSetCacheConfig(CUfunction function, int config)
{
  return CUDA_SUCCESS;
}

/* ---- launches ---- */

/* The driver calls dimensions that are out of bounds an invalid argument. */
static CUresult launch(CUfunction function, const vd_launch_config *config)
{
  int error = vd_launch(function, config);
  return error == CUDA_ERROR_INVALID_CONFIGURATION ? CUDA_ERROR_INVALID_VALUE
                                                   : (CUresult)error;
}

VD_EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                  unsigned grid_z, unsigned block_x, unsigned block_y,
                                  unsigned block_z, unsigned shared_bytes, CUstream stream,
                                  void **arguments, void **extra)
{
  vd_launch_config config = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z},
                             shared_bytes, stream, NULL, 0};
  return launch(function, &config);
}

VD_EXPORT CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned grid_x,
                                             unsigned grid_y, unsigned grid_z,
                                             unsigned block_x, unsigned block_y,
                                             unsigned block_z, unsigned shared_bytes,
                                             CUstream stream, void **arguments)
{
  return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                        shared_bytes, stream, arguments, NULL);
}

static vd_launch_config config_of(const CUlaunchConfig *given)
{
  return (vd_launch_config){{given->gridDimX, given->gridDimY, given->gridDimZ},
                            {given->blockDimX, given->blockDimY, given->blockDimZ},
                            given->sharedMemBytes, given->hStream, given->attrs,
                            given->numAttrs};
}

VD_EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *given, CUfunction function,
                                    void **arguments, void **extra)
{
  vd_launch_config config = config_of(given);
  return launch(function, &config);
}

/* ---- occupancy ---- */

VD_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks,
                                                               CUfunction function,
                                                               int block_size,
                                                               size_t shared_bytes)
{
  *blocks = vd_occupancy(block_size, shared_bytes);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, CUfunction function, int block_size, size_t shared_bytes, unsigned flags)
{
  *blocks = vd_occupancy(block_size, shared_bytes);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction function,
                                                const CUlaunchConfig *given)
{
  vd_launch_config config = config_of(given);
  *clusters = vd_active_clusters(&config);
  return CUDA_SUCCESS;
}

/* ---- descriptors of tensors for the copy engine of an SM: nothing reads them ---- */

#define TENSOR_MAP_BYTES 128

VD_EXPORT CUresult cuTensorMapEncodeTiled(void *tensor_map)
{
  memset(tensor_map, 0, TENSOR_MAP_BYTES);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuTensorMapEncodeIm2col(void *tensor_map)
{
  memset(tensor_map, 0, TENSOR_MAP_BYTES);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuTensorMapReplaceAddress(void *tensor_map, void *address)
{
  return CUDA_SUCCESS;
}
