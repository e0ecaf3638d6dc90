/* The CUDA runtime's questions about devices. */
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cudaError_t vd_check_device(int device)
{
  int count = vd_num_devices();
  if (!count)
    return cudaErrorNoDevice;
  return device >= 0 && device < count ? cudaSuccess : cudaErrorInvalidDevice;
}

/* ---- which devices there are ---- */

VD_EXPORT cudaError_t cudaGetDeviceCount(int *count)
{
  *count = vd_num_devices();
  return vd_result(*count ? cudaSuccess : cudaErrorNoDevice);
}

VD_EXPORT cudaError_t cudaGetDevice(int *device)
{
  *device = vd_current_device();
  return vd_result(vd_num_devices() ? cudaSuccess : cudaErrorNoDevice);
}

/* Since CUDA 12 this makes the context. */
VD_EXPORT cudaError_t cudaSetDevice(int device)
{
  cudaError_t error = vd_check_device(device);
  if (error)
    return vd_result(error);
  vd_set_current_device(device);
  vd_use_device(device);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    vd_use_device(device);
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaDriverGetVersion(int *version)
{
  *version = vd_the_card()->driver_version;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaRuntimeGetVersion(int *version)
{
  *version = VD_RUNTIME_VERSION;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceGetPCIBusId(char *id, int room, int device)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    snprintf(id, (size_t)room, "0000:%02X:00.0", (unsigned)vd_pci_bus(vd_physical(device)));
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaDeviceGetByPCIBusId(int *device, const char *id)
{
  const char *colon = strchr(id, ':');
  long bus = colon ? strtol(colon + 1, NULL, 16) : -1;
  for (int i = 0; i < vd_num_devices(); i++) {
    if (vd_pci_bus(vd_physical(i)) != bus)
      continue;
    *device = i;
    return cudaSuccess;
  }
  return vd_result(cudaErrorInvalidValue);
}

/* ---- what they can ---- */

VD_EXPORT cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    *value = vd_attribute(attribute, device);
  return vd_result(error);
}

static void set_identity(cudaDeviceProp *p, int device)
{
  const vd_card *card = vd_the_card();
  snprintf(p->name, sizeof p->name, "%s", card->name);
  vd_uuid(vd_physical(device), p->uuid);
  p->totalGlobalMem = card->total_bytes;
  p->major = card->major;
  p->minor = card->minor;
  p->multiProcessorCount = card->num_sms;
  p->pciBusID = vd_attribute(33, device);
  p->ECCEnabled = vd_attribute(32, device);
  p->memoryBusWidth = card->bus_bits;
  p->l2CacheSize = card->l2_bytes;
  p->asyncEngineCount = card->copy_engines;
#if VD_CUDA < 13
  p->clockRate = card->clock_khz;
  p->memoryClockRate = card->memory_clock_khz;
  p->deviceOverlap = 1;
  p->singleToDoublePrecisionPerfRatio = vd_attribute(87, device);
#else
  p->deviceNumaId = -1;
  p->hostNumaId = -1;
#endif
}

static void set_limits(cudaDeviceProp *p, int device)
{
  const vd_card *card = vd_the_card();
  p->sharedMemPerBlock = (size_t)vd_attribute(8, device);
  p->sharedMemPerBlockOptin = (size_t)card->shared_optin;
  p->sharedMemPerMultiprocessor = (size_t)card->shared_per_sm;
  p->reservedSharedMemPerBlock = (size_t)card->shared_reserved;
  p->regsPerBlock = vd_attribute(12, device);
  p->regsPerMultiprocessor = vd_attribute(82, device);
  p->warpSize = vd_attribute(10, device);
  p->memPitch = (size_t)vd_attribute(11, device);
  p->maxThreadsPerBlock = vd_attribute(1, device);
  p->maxThreadsPerMultiProcessor = card->threads_per_sm;
  p->maxBlocksPerMultiProcessor = card->blocks_per_sm;
  for (int i = 0; i < 3; i++) {
    p->maxThreadsDim[i] = vd_attribute(2 + i, device);
    p->maxGridSize[i] = vd_attribute(5 + i, device);
  }
  p->totalConstMem = (size_t)vd_attribute(9, device);
  p->textureAlignment = (size_t)vd_attribute(14, device);
  p->texturePitchAlignment = (size_t)vd_attribute(51, device);
  p->surfaceAlignment = (size_t)vd_attribute(30, device);
  p->persistingL2CacheMaxSize = vd_attribute(108, device);
  p->accessPolicyMaxWindowSize = vd_attribute(109, device);
}

static void set_abilities(cudaDeviceProp *p, int device)
{
  p->canMapHostMemory = vd_attribute(19, device);
  p->concurrentKernels = vd_attribute(31, device);
  p->unifiedAddressing = vd_attribute(41, device);
  p->streamPrioritiesSupported = vd_attribute(78, device);
  p->globalL1CacheSupported = vd_attribute(79, device);
  p->localL1CacheSupported = vd_attribute(80, device);
  p->managedMemory = vd_attribute(83, device);
  p->concurrentManagedAccess = vd_attribute(89, device);
  p->computePreemptionSupported = vd_attribute(90, device);
  p->canUseHostPointerForRegisteredMem = vd_attribute(91, device);
  p->cooperativeLaunch = vd_attribute(95, device);
  p->hostRegisterSupported = vd_attribute(99, device);
  p->timelineSemaphoreInteropSupported = vd_attribute(114, device);
  p->memoryPoolsSupported = vd_attribute(115, device);
  p->clusterLaunch = vd_attribute(120, device);
  p->ipcEventSupported = vd_attribute(125, device);
  p->unifiedFunctionPointers = vd_attribute(129, device);
}

static cudaError_t get_properties(cudaDeviceProp *properties, int device)
{
  cudaError_t error = vd_check_device(device);
  if (error)
    return vd_result(error);
  memset(properties, 0, sizeof *properties);
  set_identity(properties, device);
  set_limits(properties, device);
  set_abilities(properties, device);
  return cudaSuccess;
}

#if VD_CUDA >= 13
VD_EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
#else /* without its suffix, CUDA 12 exports the interface of CUDA 11 */
VD_EXPORT cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp *properties, int device)
#endif
{
  return get_properties(properties, device);
}

/* ---- peers: every device can reach every other ---- */

static char reached[VD_MAX_DEVICES][VD_MAX_DEVICES]; /* [from][to] */

VD_EXPORT cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
  cudaError_t error = vd_check_device(device);
  if (!error)
    error = vd_check_device(peer);
  *can = !error && device != peer;
  return vd_result(error);
}

VD_EXPORT cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
  cudaError_t error = vd_check_device(peer);
  if (error || peer == vd_current_device())
    return vd_result(error ? error : cudaErrorInvalidDevice);
  vd_use_device(peer);
  if (reached[vd_current_device()][peer])
    return vd_result(cudaErrorPeerAccessAlreadyEnabled);
  reached[vd_current_device()][peer] = 1;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceDisablePeerAccess(int peer)
{
  cudaError_t error = vd_check_device(peer);
  if (!error && !reached[vd_current_device()][peer])
    error = cudaErrorPeerAccessNotEnabled;
  if (!error)
    reached[vd_current_device()][peer] = 0;
  return vd_result(error);
}

/* Access is supported, without native atomics. */
VD_EXPORT cudaError_t cudaDeviceGetP2PAttribute(int *value, int attribute, int from, int to)
{
  enum { cudaDevP2PAttrAccessSupported = 2 };
  *value = attribute == cudaDevP2PAttrAccessSupported && from != to;
  return cudaSuccess;
}

/* ---- settings: kept where they are read back, without effect ---- */

enum { NUM_LIMITS = 7 };

static size_t limits[NUM_LIMITS] = {
    1024,      /* stack */
    1 << 20,   /* printf */
    8 << 20,   /* malloc on the device */
    2,         /* depth of synchronization */
    2048,      /* pending launches */
    128,       /* L2 fetches */
    0,         /* persisting L2 */
};

VD_EXPORT cudaError_t cudaDeviceGetLimit(size_t *value, int limit)
{
  if (limit < 0 || limit >= NUM_LIMITS)
    return vd_result(cudaErrorInvalidValue);
  *value = limits[limit];
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceSetLimit(int limit, size_t value)
{
  if (limit < 0 || limit >= NUM_LIMITS)
    return vd_result(cudaErrorInvalidValue);
  limits[limit] = value;
  return cudaSuccess;
}

static unsigned device_flags;

VD_EXPORT cudaError_t cudaGetDeviceFlags(unsigned *flags)
{
  *flags = device_flags;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaSetDeviceFlags(unsigned flags)
{
  device_flags = flags;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaDeviceSetCacheConfig(int config)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaCtxResetPersistingL2Cache(void)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaProfilerStart(void)
{
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaProfilerStop(void)
{
  return cudaSuccess;
}
