/* cuDNN's handles and what is executed with them, versions and messages (cudnn_graph.h). */
#include "cudnn.h"
#include "versions.h"

#include <stdlib.h>

#ifndef VD_CUDNN_VERSION
#define VD_CUDNN_VERSION 0
#endif

#ifndef VD_RUNTIME_VERSION
#define VD_RUNTIME_VERSION 0
#endif

typedef struct {
  void *stream;
} handle;

VD_EXPORT int cudnnCreate(handle **made)
{
  *made = calloc(1, sizeof **made);
  return *made != NULL ? CUDNN_STATUS_SUCCESS
                       : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
}

VD_EXPORT int cudnnDestroy(handle *used)
{
  free(used);
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnSetStream(handle *used, void *stream)
{
  used->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnGetStream(const handle *used, void **stream)
{
  *stream = used->stream;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnBackendExecute(const handle *used, void *plan, void *variant_pack)
{
  (void)plan, (void)variant_pack;
  vd_compute_on(used->stream);
  return CUDNN_STATUS_SUCCESS;
}

/* ---- versions ---- */

VD_EXPORT size_t cudnnGetVersion(void)
{
  size_t version = real_cudnn_version();
  return version != 0 ? version : VD_CUDNN_VERSION;
}

VD_EXPORT size_t cudnnGetCudartVersion(void)
{
  return VD_RUNTIME_VERSION;
}

VD_EXPORT int cudnnGetProperty(int property, int *value)
{
  int known = version_part((int)cudnnGetVersion(), 10000, property, value);
  return known ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

/* ---- messages: the real library made the errors, so it explains them ---- */

VD_EXPORT const char *cudnnGetErrorString(int status)
{
  const cudnn_library *real = real_cudnn();
  if (real != NULL)
    return real->error_string(status);
  return status == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS" : "CUDNN_STATUS_ERROR";
}

VD_EXPORT void cudnnGetLastErrorString(char *text, size_t room)
{
  const cudnn_library *real = real_cudnn();
  if (real != NULL)
    real->last_error(text, room);
  else if (room > 0)
    text[0] = '\0';
}
