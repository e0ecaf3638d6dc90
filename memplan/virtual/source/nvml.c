/* NVML's life, versions and handles (nvml.h). It counts every device of the machine,
 * whatever CUDA_VISIBLE_DEVICES says. */
#include "nvml.h"

#include <stdio.h>
#include <string.h>

static int num_users;

/* ---- life ---- */

VD_EXPORT int nvmlInit_v2(void)
{
  if (vd_the_card()->count < 1)
    return NVML_ERROR_DRIVER_NOT_LOADED;
  __atomic_add_fetch(&num_users, 1, __ATOMIC_ACQ_REL);
  return NVML_SUCCESS;
}

VD_EXPORT int nvmlInit(void)
{
  return nvmlInit_v2();
}

VD_EXPORT int nvmlInitWithFlags(unsigned flags)
{
  (void)flags;
  return nvmlInit_v2();
}

static int is_initialized(void)
{
  return __atomic_load_n(&num_users, __ATOMIC_ACQUIRE) > 0;
}

VD_EXPORT int nvmlShutdown(void)
{
  if (!is_initialized())
    return NVML_ERROR_UNINITIALIZED;
  __atomic_sub_fetch(&num_users, 1, __ATOMIC_ACQ_REL);
  return NVML_SUCCESS;
}

VD_EXPORT const char *nvmlErrorString(int result)
{
  switch (result) {
  case NVML_SUCCESS:
    return "Success";
  case NVML_ERROR_UNINITIALIZED:
    return "Uninitialized";
  case NVML_ERROR_INVALID_ARGUMENT:
    return "Invalid Argument";
  case NVML_ERROR_NOT_SUPPORTED:
    return "Not Supported";
  case NVML_ERROR_NO_PERMISSION:
    return "Insufficient Permissions";
  case NVML_ERROR_ALREADY_INITIALIZED:
    return "Already Initialized";
  case NVML_ERROR_NOT_FOUND:
    return "Not Found";
  case NVML_ERROR_INSUFFICIENT_SIZE:
    return "Insufficient Size";
  case NVML_ERROR_DRIVER_NOT_LOADED:
    return "Driver Not Loaded";
  case NVML_ERROR_TIMEOUT:
    return "Timeout";
  case NVML_ERROR_FUNCTION_NOT_FOUND:
    return "Function Not Found";
  case NVML_ERROR_NO_DATA:
    return "No data";
  case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
    return "Argument version mismatch";
  default:
    return "Unknown Error";
  }
}

/* ---- what the files share ---- */

int nvml_physical(const void *handle, int *physical)
{
  if (!is_initialized())
    return NVML_ERROR_UNINITIALIZED;
  intptr_t number = (intptr_t)handle;
  if (number < 1 || number > vd_the_card()->count)
    return NVML_ERROR_INVALID_ARGUMENT;
  *physical = (int)number - 1;
  return NVML_SUCCESS;
}

int nvml_text(char *to, unsigned room, const char *text)
{
  if (to == NULL)
    return NVML_ERROR_INVALID_ARGUMENT;
  if (strlen(text) >= room)
    return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(to, text, strlen(text) + 1);
  return NVML_SUCCESS;
}

/* ---- versions ---- */

VD_EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
  *version = vd_the_card()->driver_version;
  return NVML_SUCCESS;
}

VD_EXPORT int nvmlSystemGetCudaDriverVersion(int *version)
{
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

/* The first driver branches that brought CUDA 13.0 and 12.8 (CUDA release notes). */
static const char *driver_version(void)
{
  return vd_the_card()->driver_version >= 13000 ? "580.65.06" : "570.86.10";
}

VD_EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned room)
{
  return nvml_text(text, room, driver_version());
}

VD_EXPORT int nvmlSystemGetNVMLVersion(char *text, unsigned room)
{
  char version[32];
  int major = vd_the_card()->driver_version / 1000;
  snprintf(version, sizeof version, "%d.%s", major, driver_version());
  return nvml_text(text, room, version);
}

VD_EXPORT int nvmlSystemGetProcessName(unsigned process, char *name, unsigned room)
{
  char path[32];
  char text[256] = "";
  snprintf(path, sizeof path, "/proc/%u/cmdline", process);
  FILE *file = fopen(path, "r");
  if (file == NULL)
    return NVML_ERROR_NOT_FOUND;
  size_t length = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[length] = '\0';
  return nvml_text(name, room, text);
}

/* ---- handles ---- */

VD_EXPORT int nvmlDeviceGetCount_v2(unsigned *count)
{
  if (!is_initialized())
    return NVML_ERROR_UNINITIALIZED;
  *count = (unsigned)vd_the_card()->count;
  return NVML_SUCCESS;
}

VD_EXPORT int nvmlDeviceGetCount(unsigned *count)
{
  return nvmlDeviceGetCount_v2(count);
}

VD_EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
  int unused;
  *handle = (void *)((uintptr_t)index + 1);
  return nvml_physical(*handle, &unused);
}

VD_EXPORT int nvmlDeviceGetHandleByIndex(unsigned index, void **handle)
{
  return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

static int find_handle(int (*is_it)(void *handle, const char *name), const char *name,
                       void **found)
{
  if (!is_initialized())
    return NVML_ERROR_UNINITIALIZED;
  for (int number = 1; number <= vd_the_card()->count; number++) {
    void *handle = (void *)(uintptr_t)number;
    if (is_it(handle, name)) {
      *found = handle;
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

static int has_uuid(void *handle, const char *name)
{
  char uuid[64];
  nvmlDeviceGetUUID(handle, uuid, sizeof uuid);
  return strcmp(uuid, name) == 0;
}

VD_EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
  return find_handle(has_uuid, uuid, handle);
}

/* "00000000:10:00.0", with the domain shorter or left out: the bus tells them apart. */
static int has_bus(void *handle, const char *name)
{
  unsigned domain;
  unsigned bus;
  unsigned device;
  if (sscanf(name, "%x:%x:%x", &domain, &bus, &device) != 3 &&
      sscanf(name, "%x:%x", &bus, &device) != 2) {
    return 0;
  }
  return vd_pci_bus((int)(uintptr_t)handle - 1) == (int)bus;
}

VD_EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *name, void **handle)
{
  return find_handle(has_bus, name, handle);
}

VD_EXPORT int nvmlDeviceGetHandleByPciBusId(const char *name, void **handle)
{
  return nvmlDeviceGetHandleByPciBusId_v2(name, handle);
}
