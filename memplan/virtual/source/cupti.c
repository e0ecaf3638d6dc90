/* CUPTI with nothing to trace (cupti.h): torch.profiler subscribes to it and asks for
 * records of kernels, of which there are none. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "device.h"

/* CUptiResult */
enum {
  CUPTI_SUCCESS = 0,
  CUPTI_ERROR_INVALID_PARAMETER = 1,
  CUPTI_ERROR_MAX_LIMIT_REACHED = 12,
  CUPTI_ERROR_QUEUE_EMPTY = 18
};

#ifndef VD_CUDA
#define VD_CUDA 13
#endif

/* CUPTI_API_VERSION: 130001 came with CUDA 13.0, 26 with CUDA 12.8. */
#define API_VERSION (VD_CUDA >= 13 ? 130001 : 26)

VD_EXPORT int cuptiGetVersion(uint32_t *version)
{
  *version = API_VERSION;
  return CUPTI_SUCCESS;
}

VD_EXPORT int cuptiGetTimestamp(uint64_t *nanoseconds)
{
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  return CUPTI_SUCCESS;
}

VD_EXPORT int cuptiSubscribe(void **subscriber, void *callback, void *data)
{
  static char the_subscriber;
  (void)callback, (void)data;
  *subscriber = &the_subscriber;
  return CUPTI_SUCCESS;
}

/* ---- records: none ---- */

VD_EXPORT int cuptiActivityGetNextRecord(uint8_t *buffer, size_t bytes, void **record)
{
  (void)buffer, (void)bytes, (void)record;
  return CUPTI_ERROR_MAX_LIMIT_REACHED;
}

VD_EXPORT int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream,
                                                size_t *dropped)
{
  (void)context, (void)stream;
  *dropped = 0;
  return CUPTI_SUCCESS;
}

VD_EXPORT int cuptiActivityPopExternalCorrelationId(int kind, uint64_t *last)
{
  (void)kind;
  if (last != NULL)
    *last = 0;
  return CUPTI_ERROR_QUEUE_EMPTY;
}

/* ---- messages ---- */

static const char *message(int result)
{
  switch (result) {
  case CUPTI_SUCCESS:
    return "CUPTI_SUCCESS";
  case CUPTI_ERROR_INVALID_PARAMETER:
    return "CUPTI_ERROR_INVALID_PARAMETER";
  case CUPTI_ERROR_MAX_LIMIT_REACHED:
    return "CUPTI_ERROR_MAX_LIMIT_REACHED";
  case CUPTI_ERROR_QUEUE_EMPTY:
    return "CUPTI_ERROR_QUEUE_EMPTY";
  default:
    return "CUPTI_ERROR_UNKNOWN";
  }
}

VD_EXPORT int cuptiGetResultString(int result, const char **text)
{
  *text = message(result);
  return CUPTI_SUCCESS;
}

VD_EXPORT int cuptiGetErrorMessage(int result, const char **text)
{
  *text = message(result);
  return CUPTI_SUCCESS;
}

VD_EXPORT int cuptiGetCallbackName(int domain, uint32_t callback, const char **name)
{
  (void)domain, (void)callback;
  *name = "";
  return CUPTI_SUCCESS;
}
