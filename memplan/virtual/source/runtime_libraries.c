/* Code that a program loads by itself (compiled by NVRTC, or read from a file), and the
 * functions of the driver that it asks the CUDA runtime for by name. */
#define _GNU_SOURCE
#include "runtime.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- libraries: whatever is asked of one, it has ---- */

struct vd_library {
  char unused;
};

static cudaError_t load(cudaLibrary_t *library)
{
  *library = malloc(sizeof **library);
  return vd_result(*library ? cudaSuccess : cudaErrorMemoryAllocation);
}

VD_EXPORT cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code,
                                          int *jit_options, void **jit_values,
                                          unsigned num_jit_options, int *options,
                                          void **values, unsigned num_options)
{
  return load(library);
}

VD_EXPORT cudaError_t cudaLibraryLoadFromFile(cudaLibrary_t *library, const char *path,
                                              int *jit_options, void **jit_values,
                                              unsigned num_jit_options, int *options,
                                              void **values, unsigned num_options)
{
  return load(library);
}

VD_EXPORT cudaError_t cudaLibraryUnload(cudaLibrary_t library)
{
  free(library);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library,
                                           const char *name)
{
  *kernel = vd_new_kernel(name);
  return vd_result(*kernel ? cudaSuccess : cudaErrorMemoryAllocation);
}

/* Its variables are nowhere described. */
VD_EXPORT cudaError_t cudaLibraryGetGlobal(void **address, size_t *bytes,
                                           cudaLibrary_t library, const char *name)
{
  return vd_result(cudaErrorSymbolNotFound);
}

/* ---- functions of the driver ---- */

/* A name stands for the newest interface that the asked version of CUDA knows. All that
 * got another interface before CUDA 12.0 have the suffix _v2 since; these are the others,
 * newest first, from NVIDIA's cudaTypedefs.h. */
static const struct {
  const char *name, *suffix;
  unsigned since;
} newer_interfaces[] = {
    {"cuCtxCreate", "_v4", 12050},
    {"cuCtxCreate", "_v3", 11040},
    {"cuCtxCreate", "_v2", 3020},
    {"cuCtxGetDevice", "_v2", 13000},
    {"cuCtxSynchronize", "_v2", 13000},
    {"cuEventElapsedTime", "_v2", 12080},
    {"cuGraphAddDependencies", "_v2", 12030},
    {"cuGraphAddNode", "_v2", 12030},
    {"cuGraphGetEdges", "_v2", 12030},
    {"cuGraphNodeGetDependencies", "_v2", 12030},
    {"cuGraphNodeGetDependentNodes", "_v2", 12030},
    {"cuGraphRemoveDependencies", "_v2", 12030},
    {"cuMemAdvise", "_v2", 12020},
    {"cuMemPrefetchAsync", "_v2", 12020},
    {"cuMemcpy3DBatchAsync", "_v2", 13000},
    {"cuMemcpyBatchAsync", "_v2", 13000},
    {"cuStreamGetCaptureInfo", "_v3", 12030},
    {"cuStreamGetCaptureInfo", "_v2", 11030},
    {"cuStreamGetCtx", "_v2", 12050},
    {"cuStreamUpdateCaptureDependencies", "_v2", 12030},
};
enum { NUM_NEWER = sizeof newer_interfaces / sizeof *newer_interfaces };

static void *look_up(const char *name, const char *suffix)
{
  static void *driver;
  char whole[160];
  if (!driver)
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  snprintf(whole, sizeof whole, "%s%s", name, suffix);
  return driver ? dlsym(driver, whole) : NULL;
}

static void *driver_function(const char *name, unsigned version)
{
  int is_newer = 0;
  for (int i = 0; i < NUM_NEWER; i++) {
    if (strcmp(newer_interfaces[i].name, name))
      continue;
    is_newer = 1;
    if (version >= newer_interfaces[i].since)
      return look_up(name, newer_interfaces[i].suffix);
  }
  void *found = is_newer ? NULL : look_up(name, "_v2");
  return found ? found : look_up(name, "");
}

enum { FOUND = 0, NOT_FOUND = 1 }; /* cudaDriverEntryPointQueryResult */

VD_EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function,
                                                       unsigned version,
                                                       unsigned long long flags,
                                                       int *status)
{
  *function = driver_function(name, version);
  if (status)
    *status = *function ? FOUND : NOT_FOUND;
  if (!*function)
    vd_log("no function of the driver is called %s\n", name);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaGetDriverEntryPoint(const char *name, void **function,
                                              unsigned long long flags, int *status)
{
  return cudaGetDriverEntryPointByVersion(name, function, VD_RUNTIME_VERSION, flags,
                                          status);
}
