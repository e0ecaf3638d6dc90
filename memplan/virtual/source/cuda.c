/* The CUDA driver (libcuda): devices, contexts and errors. Memory is in cuda_memory.c,
 * code in cuda_modules.c, streams in cuda_streams.c.
 *
 * A CUDA runtime that is linked into another library, as in NVIDIA's cuDNN, asks the driver
 * for a table of its functions. It gets none, and finds no usable driver: it must never
 * reach this one, whose memory it would read and write. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

CUresult vd_driver_check(CUdevice device)
{
  int count = vd_num_devices();
  if (!count)
    return CUDA_ERROR_NO_DEVICE;
  return device >= 0 && device < count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

VD_EXPORT CUresult cuInit(unsigned flags)
{
  return vd_num_devices() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

VD_EXPORT CUresult cuDriverGetVersion(int *version)
{
  *version = vd_the_card()->driver_version;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuGetProcAddress(const char *name, void **function, int version,
                                    uint64_t flags)
{
  *function = NULL;
  return CUDA_ERROR_NOT_FOUND;
}

VD_EXPORT CUresult cuGetProcAddress_v2(const char *name, void **function, int version,
                                       uint64_t flags, int *status)
{
  enum { CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND = 1 };
  *function = NULL;
  if (status)
    *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return CUDA_ERROR_NOT_FOUND;
}

VD_EXPORT CUresult cuGetExportTable(const void **table, const void *id)
{
  *table = NULL;
  return CUDA_ERROR_NOT_FOUND;
}

/* ---- devices ---- */

VD_EXPORT CUresult cuDeviceGetCount(int *count)
{
  *count = vd_num_devices();
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
  CUresult error = vd_driver_check(ordinal);
  if (!error)
    *device = ordinal;
  return error;
}

VD_EXPORT CUresult cuDeviceGetName(char *name, int room, CUdevice device)
{
  CUresult error = vd_driver_check(device);
  if (!error)
    snprintf(name, (size_t)room, "%s", vd_the_card()->name);
  return error;
}

VD_EXPORT CUresult cuDeviceGetUuid(unsigned char *uuid, CUdevice device)
{
  CUresult error = vd_driver_check(device);
  if (!error)
    vd_uuid(vd_physical(device), uuid);
  return error;
}

VD_EXPORT CUresult cuDeviceGetUuid_v2(unsigned char *uuid, CUdevice device)
{
  return cuDeviceGetUuid(uuid, device);
}

VD_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
  CUresult error = vd_driver_check(device);
  if (!error)
    *bytes = vd_the_card()->total_bytes;
  return error;
}

VD_EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
  CUresult error = vd_driver_check(device);
  if (!error)
    *value = vd_attribute(attribute, device);
  return error;
}

VD_EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device)
{
  *major = vd_the_card()->major;
  *minor = vd_the_card()->minor;
  return vd_driver_check(device);
}

VD_EXPORT CUresult cuDeviceGetPCIBusId(char *id, int room, CUdevice device)
{
  CUresult error = vd_driver_check(device);
  if (!error)
    snprintf(id, (size_t)room, "0000:%02X:00.0", (unsigned)vd_pci_bus(vd_physical(device)));
  return error;
}

VD_EXPORT CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *id)
{
  const char *colon = strchr(id, ':');
  long bus = colon ? strtol(colon + 1, NULL, 16) : -1;
  for (int i = 0; i < vd_num_devices(); i++) {
    if (vd_pci_bus(vd_physical(i)) != bus)
      continue;
    *device = i;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

VD_EXPORT CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
  *can = device != peer;
  return vd_driver_check(peer);
}

/* ---- contexts: one for each device, whoever makes it ---- */

struct vd_context {
  char unused;
};
static struct vd_context contexts[VD_MAX_DEVICES];

CUcontext vd_context_of(CUdevice device)
{
  return &contexts[device];
}

static CUdevice device_of(CUcontext context)
{
  return (CUdevice)(context - contexts);
}

static CUresult make_context(CUcontext *context, CUdevice device)
{
  CUresult error = vd_driver_check(device);
  if (error)
    return error;
  vd_use_device(device);
  *context = vd_context_of(device);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
  return make_context(context, device);
}

VD_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
  return vd_driver_check(device);
}

VD_EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags)
{
  return vd_driver_check(device);
}

VD_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
  CUresult error = vd_driver_check(device);
  if (!error && flags)
    *flags = 0;
  if (!error && active)
    *active = vd_device_in_use(device);
  return error;
}

VD_EXPORT CUresult cuCtxGetCurrent(CUcontext *context)
{
  CUdevice device = vd_current_device();
  int is_there = vd_num_devices() && vd_device_in_use(device);
  *context = is_there ? vd_context_of(device) : NULL;
  return CUDA_SUCCESS;
}

/* Without one the thread keeps its device: the runtime would take it again. */
VD_EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
  if (context)
    vd_set_current_device(device_of(context));
  return CUDA_SUCCESS;
}

enum { MAX_PUSHED = 64 };
static __thread CUdevice pushed[MAX_PUSHED]; /* the devices that were current before */
static __thread int num_pushed;

VD_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context)
{
  if (!context || num_pushed == MAX_PUSHED)
    return CUDA_ERROR_INVALID_CONTEXT;
  pushed[num_pushed++] = vd_current_device();
  vd_set_current_device(device_of(context));
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
  if (context)
    *context = vd_context_of(vd_current_device());
  if (num_pushed)
    vd_set_current_device(pushed[--num_pushed]);
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
  CUresult error = make_context(context, device);
  return error ? error : cuCtxPushCurrent_v2(*context);
}

VD_EXPORT CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags,
                                  CUdevice device)
{
  return cuCtxCreate_v2(context, flags, device);
}

VD_EXPORT CUresult cuCtxDestroy_v2(CUcontext context)
{
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxGetDevice(CUdevice *device)
{
  *device = vd_current_device();
  return vd_driver_check(*device);
}

VD_EXPORT CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext context)
{
  *device = context ? device_of(context) : vd_current_device();
  return vd_driver_check(*device);
}

VD_EXPORT CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version)
{
  *version = 3020;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxSynchronize(void)
{
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxSynchronize_v2(CUcontext context)
{
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags)
{
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
  if (least)
    *least = 0;
  if (greatest)
    *greatest = -5;
  return CUDA_SUCCESS;
}

/* ---- errors ---- */

/* The driver's own log of errors stays empty: there is nothing to call back for. */
VD_EXPORT CUresult cuLogsRegisterCallback(void *callback, void *data, void **handle)
{
  static char only_one;
  *handle = &only_one;
  return CUDA_SUCCESS;
}

VD_EXPORT CUresult cuLogsUnregisterCallback(void *handle)
{
  return CUDA_SUCCESS;
}

static const struct {
  int error;
  const char *name, *sentence;
} texts[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE",
     "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {912, "CUDA_ERROR_INVALID_CLUSTER_SIZE",
     "a kernel launch error has occurred due to cluster misconfiguration"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
enum { NUM_TEXTS = sizeof texts / sizeof *texts };

static int text_of(CUresult error)
{
  int i = 0;
  while (i < NUM_TEXTS && texts[i].error != (int)error)
    i++;
  return i;
}

VD_EXPORT CUresult cuGetErrorName(CUresult error, const char **name)
{
  int i = text_of(error);
  *name = i < NUM_TEXTS ? texts[i].name : NULL;
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

VD_EXPORT CUresult cuGetErrorString(CUresult error, const char **sentence)
{
  int i = text_of(error);
  *sentence = i < NUM_TEXTS ? texts[i].sentence : NULL;
  return *sentence ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
