/* Streams and events. Work is done as soon as it is given: streams are always idle, events
 * always over, and callbacks run where they are given. Times mean nothing here, so the
 * time between two events is one constant. */
#include "streams.h"

#include <stdlib.h>

#define ELAPSED_MS 1.0f

enum {
  cudaEventDisableTiming = 2,
  LEAST_PRIORITY = 0,
  GREATEST_PRIORITY = -5,
};

unsigned long long vd_new_id(void)
{
  static unsigned long long last = 16; /* low ones stand for default streams */
  return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

vd_stream *vd_stream_of(cudaStream_t stream)
{
  return (uintptr_t)stream > 2 ? stream : NULL;
}

/* ---- streams ---- */

VD_EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags,
                                                   int priority)
{
  int device = vd_current_device();
  cudaError_t error = vd_check_device(device);
  if (error)
    return vd_result(error);
  vd_use_device(device);
  vd_stream *new = calloc(1, sizeof *new);
  if (!new)
    return vd_result(cudaErrorMemoryAllocation);
  new->id = vd_new_id();
  new->priority = priority > LEAST_PRIORITY      ? LEAST_PRIORITY
                  : priority < GREATEST_PRIORITY ? GREATEST_PRIORITY
                                                 : priority;
  new->flags = flags;
  new->device = device;
  *stream = new;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

VD_EXPORT cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
  return cudaStreamCreateWithPriority(stream, 0, 0);
}

VD_EXPORT cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
  vd_stream *destroyed = vd_stream_of(stream);
  if (!destroyed)
    return vd_result(cudaErrorInvalidResourceHandle);
  free(destroyed->last.at);
  free(destroyed);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority)
{
  vd_stream *asked = vd_stream_of(stream);
  *priority = asked ? asked->priority : 0;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned *flags)
{
  vd_stream *asked = vd_stream_of(stream);
  *flags = asked ? asked->flags : 0;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long *id)
{
  vd_stream *asked = vd_stream_of(stream);
  *id = asked ? asked->id : (uintptr_t)stream;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaStreamGetDevice(cudaStream_t stream, int *device)
{
  vd_stream *asked = vd_stream_of(stream);
  *device = asked ? asked->device : vd_current_device();
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
  if (least)
    *least = LEAST_PRIORITY;
  if (greatest)
    *greatest = GREATEST_PRIORITY;
  return cudaSuccess;
}

/* ---- waiting ---- */

VD_EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
  return vd_result(vd_capture_synchronize(stream));
}

VD_EXPORT cudaError_t cudaStreamQuery(cudaStream_t stream)
{
  return vd_result(vd_capture_synchronize(stream));
}

VD_EXPORT cudaError_t cudaDeviceSynchronize(void)
{
  cudaError_t error = vd_check_device(vd_current_device());
  if (!error)
    vd_use_device(vd_current_device());
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                          unsigned flags)
{
  if (!event)
    return vd_result(cudaErrorInvalidResourceHandle);
  return vd_result(vd_capture_wait(stream, event));
}

/* ---- callbacks ---- */

VD_EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function,
                                         void *data)
{
  if (!function)
    return vd_result(cudaErrorInvalidValue);
  vd_graph_node *node = vd_capture_node(stream, VD_HOST_NODE);
  if (node) { /* it runs whenever the graph is launched */
    node->function = function;
    node->data = data;
  } else {
    function(data);
  }
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream,
                                            cudaStreamCallback_t callback, void *data,
                                            unsigned flags)
{
  if (!callback || flags)
    return vd_result(cudaErrorInvalidValue);
  callback(stream, cudaSuccess, data);
  return cudaSuccess;
}

/* ---- events ---- */

VD_EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
  vd_event *new = calloc(1, sizeof *new);
  if (!new)
    return vd_result(cudaErrorMemoryAllocation);
  new->flags = flags;
  *event = new;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaEventCreate(cudaEvent_t *event)
{
  return cudaEventCreateWithFlags(event, 0);
}

VD_EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event)
{
  if (!event)
    return vd_result(cudaErrorInvalidResourceHandle);
  free(event->last.at);
  free(event);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
  if (!event)
    return vd_result(cudaErrorInvalidResourceHandle);
  event->recorded = 1;
  vd_capture_record(stream, event);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream,
                                               unsigned flags)
{
  return cudaEventRecord(event, stream);
}

VD_EXPORT cudaError_t cudaEventQuery(cudaEvent_t event)
{
  return vd_result(event ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

VD_EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
  return vd_result(event ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

static int is_timed(cudaEvent_t event)
{
  return event && event->recorded && !(event->flags & cudaEventDisableTiming);
}

VD_EXPORT cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
  if (!is_timed(start) || !is_timed(end))
    return vd_result(cudaErrorInvalidResourceHandle);
  *ms = start == end ? 0 : ELAPSED_MS;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaEventElapsedTime_v2(float *ms, cudaEvent_t start,
                                              cudaEvent_t end)
{
  return cudaEventElapsedTime(ms, start, end);
}

VD_EXPORT cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t *handle,
                                            cudaEvent_t event)
{
  if (!event)
    return vd_result(cudaErrorInvalidResourceHandle);
  *handle = (cudaIpcEventHandle_t){{0}};
  return cudaSuccess;
}

/* An event of another process is over, like any other. */
VD_EXPORT cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event,
                                             cudaIpcEventHandle_t handle)
{
  return cudaEventCreateWithFlags(event, cudaEventDisableTiming);
}
