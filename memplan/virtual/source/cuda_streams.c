/* The CUDA driver's streams and events: those of the runtime, by other names. */
#include "driver.h"

CUresult cudaStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority);
CUresult cudaStreamDestroy(CUstream stream);
CUresult cudaStreamSynchronize(CUstream stream);
CUresult cudaStreamQuery(CUstream stream);
CUresult cudaStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
CUresult cudaStreamIsCapturing(CUstream stream, int *status);
CUresult cudaStreamGetPriority(CUstream stream, int *priority);
CUresult cudaStreamGetDevice(CUstream stream, int *device);
CUresult cudaLaunchHostFunc(CUstream stream, void (*function)(void *), void *data);
CUresult cudaEventCreateWithFlags(CUevent *event, unsigned flags);
CUresult cudaEventDestroy(CUevent event);
CUresult cudaEventRecord(CUevent event, CUstream stream);
CUresult cudaEventQuery(CUevent event);
CUresult cudaEventSynchronize(CUevent event);
CUresult cudaEventElapsedTime(float *ms, CUevent start, CUevent end);

VD_EXPORT CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

VD_EXPORT CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags,
                                              int priority)
{
  return cudaStreamCreateWithPriority(stream, flags, priority);
}

VD_EXPORT CUresult cuStreamDestroy_v2(CUstream stream)
{
  return cudaStreamDestroy(stream);
}

VD_EXPORT CUresult cuStreamSynchronize(CUstream stream)
{
  return cudaStreamSynchronize(stream);
}

VD_EXPORT CUresult cuStreamQuery(CUstream stream)
{
  return cudaStreamQuery(stream);
}

VD_EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
  return cudaStreamWaitEvent(stream, event, flags);
}

VD_EXPORT CUresult cuStreamIsCapturing(CUstream stream, int *status)
{
  return cudaStreamIsCapturing(stream, status);
}

VD_EXPORT CUresult cuStreamGetPriority(CUstream stream, int *priority)
{
  return cudaStreamGetPriority(stream, priority);
}

VD_EXPORT CUresult cuStreamGetCtx(CUstream stream, CUcontext *context)
{
  int device;
  cudaStreamGetDevice(stream, &device);
  *context = vd_context_of(device);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuStreamGetCtx_v2(CUstream stream, CUcontext *context,
                                     void **green_context)
{
  if (green_context)
    *green_context = NULL;
  return cuStreamGetCtx(stream, context);
}

VD_EXPORT CUresult cuLaunchHostFunc(CUstream stream, void (*function)(void *), void *data)
{
  return cudaLaunchHostFunc(stream, function, data);
}

VD_EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags)
{
  return cudaEventCreateWithFlags(event, flags);
}

VD_EXPORT CUresult cuEventDestroy_v2(CUevent event)
{
  return cudaEventDestroy(event);
}

VD_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream)
{
  return cudaEventRecord(event, stream);
}

VD_EXPORT CUresult cuEventQuery(CUevent event)
{
  return cudaEventQuery(event);
}

VD_EXPORT CUresult cuEventSynchronize(CUevent event)
{
  return cudaEventSynchronize(event);
}

VD_EXPORT CUresult cuEventElapsedTime_v2(float *ms, CUevent start, CUevent end)
{
  return cudaEventElapsedTime(ms, start, end);
}

VD_EXPORT CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end)
{
  return cudaEventElapsedTime(ms, start, end);
}
