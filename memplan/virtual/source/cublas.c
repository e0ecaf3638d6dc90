/* cuBLAS handles (cublas_api.h): the stream, modes and workspace that a program sets
 * are kept and read back. PyTorch allocates the workspace itself, so nothing is hidden
 * here; the routines compute and do nothing. */
#include <stddef.h>
#include <stdlib.h>

#include "device.h"
#include "versions.h"

#ifndef VD_CUBLAS_VERSION
#define VD_CUBLAS_VERSION 0
#endif

#ifndef VD_RUNTIME_VERSION
#define VD_RUNTIME_VERSION 0
#endif

/* cublasStatus_t */
enum {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_NOT_INITIALIZED = 1,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_ARCH_MISMATCH = 8,
  CUBLAS_STATUS_MAPPING_ERROR = 11,
  CUBLAS_STATUS_EXECUTION_FAILED = 13,
  CUBLAS_STATUS_INTERNAL_ERROR = 14,
  CUBLAS_STATUS_NOT_SUPPORTED = 15,
  CUBLAS_STATUS_LICENSE_ERROR = 16
};

typedef struct {
  void *stream; /* first: the generated routines look for it there */
  int math_mode;
  int pointer_mode;
  int atomics_mode;
  int num_sms; /* to use at most */
} handle;

VD_EXPORT int cublasCreate_v2(handle **made)
{
  vd_use_device(vd_current_device());
  *made = calloc(1, sizeof **made);
  return *made != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

VD_EXPORT int cublasDestroy_v2(handle *used)
{
  free(used);
  return CUBLAS_STATUS_SUCCESS;
}

/* ---- what is set is read back ---- */

VD_EXPORT int cublasSetStream_v2(handle *used, void *stream)
{
  used->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasGetStream_v2(const handle *used, void **stream)
{
  *stream = used->stream;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasSetMathMode(handle *used, int mode)
{
  used->math_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasGetMathMode(const handle *used, int *mode)
{
  *mode = used->math_mode;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasSetPointerMode_v2(handle *used, int mode)
{
  used->pointer_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasGetPointerMode_v2(const handle *used, int *mode)
{
  *mode = used->pointer_mode;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasSetAtomicsMode(handle *used, int mode)
{
  used->atomics_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasGetAtomicsMode(const handle *used, int *mode)
{
  *mode = used->atomics_mode;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasSetSmCountTarget(handle *used, int num_sms)
{
  used->num_sms = num_sms;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasGetSmCountTarget(const handle *used, int *num_sms)
{
  *num_sms = used->num_sms;
  return CUBLAS_STATUS_SUCCESS;
}

/* ---- versions ---- */

VD_EXPORT int cublasGetVersion_v2(const handle *used, int *version)
{
  (void)used;
  *version = VD_CUBLAS_VERSION;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT size_t cublasGetCudartVersion(void)
{
  return VD_RUNTIME_VERSION;
}

VD_EXPORT int cublasGetProperty(int property, int *value)
{
  int known = version_part(VD_CUBLAS_VERSION, 10000, property, value);
  return known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- messages ---- */

VD_EXPORT const char *cublasGetStatusName(int status)
{
  switch (status) {
  case CUBLAS_STATUS_SUCCESS:
    return "CUBLAS_STATUS_SUCCESS";
  case CUBLAS_STATUS_NOT_INITIALIZED:
    return "CUBLAS_STATUS_NOT_INITIALIZED";
  case CUBLAS_STATUS_ALLOC_FAILED:
    return "CUBLAS_STATUS_ALLOC_FAILED";
  case CUBLAS_STATUS_INVALID_VALUE:
    return "CUBLAS_STATUS_INVALID_VALUE";
  case CUBLAS_STATUS_ARCH_MISMATCH:
    return "CUBLAS_STATUS_ARCH_MISMATCH";
  case CUBLAS_STATUS_MAPPING_ERROR:
    return "CUBLAS_STATUS_MAPPING_ERROR";
  case CUBLAS_STATUS_EXECUTION_FAILED:
    return "CUBLAS_STATUS_EXECUTION_FAILED";
  case CUBLAS_STATUS_INTERNAL_ERROR:
    return "CUBLAS_STATUS_INTERNAL_ERROR";
  case CUBLAS_STATUS_NOT_SUPPORTED:
    return "CUBLAS_STATUS_NOT_SUPPORTED";
  case CUBLAS_STATUS_LICENSE_ERROR:
    return "CUBLAS_STATUS_LICENSE_ERROR";
  default:
    return "unknown status";
  }
}

VD_EXPORT const char *cublasGetStatusString(int status)
{
  return cublasGetStatusName(status);
}
