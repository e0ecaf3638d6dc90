/* The types of the CUDA driver that its library takes and gives, under their names in
 * NVIDIA's cuda.h (CUDA 12.8 and 13.0), which is not used. tests/virtual/test_layouts.py
 * holds their sizes and offsets to that header. */
#ifndef MEMPLAN_DRIVER_H
#define MEMPLAN_DRIVER_H

#include "device.h"

/* The signatures are NVIDIA's, and a device that computes nothing has no use for most of
 * what it is handed. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

typedef enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_INVALID_CONFIGURATION = 9, /* the runtime's: the driver has no such error */
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_SUPPORTED = 801,
} CUresult;

typedef int CUdevice;
typedef uintptr_t CUdeviceptr;
typedef struct vd_context *CUcontext;
typedef struct vd_driver_module *CUmodule; /* and CUlibrary */
typedef vd_kernel *CUfunction;             /* and CUkernel */
typedef void *CUstream; /* the runtime's, as are events */
typedef void *CUevent;
typedef struct vd_memory *CUmemGenericAllocationHandle;

typedef struct {
  int type, id;
} CUmemLocation;

enum { CU_MEM_LOCATION_TYPE_DEVICE = 1 };

typedef struct {
  int type, requestedHandleTypes;
  CUmemLocation location;
  void *win32HandleMetaData;
  unsigned char allocFlags[8];
} CUmemAllocationProp;

typedef struct {
  unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ;
  unsigned sharedMemBytes;
  CUstream hStream;
  vd_launch_attribute *attrs;
  unsigned numAttrs;
} CUlaunchConfig;

/* CUDA_SUCCESS where the device exists */
CUresult vd_driver_check(CUdevice device);
CUcontext vd_context_of(CUdevice device);

#endif
