/* Which device it is (nvml.h): names, numbers, place in the machine. */
#include "nvml.h"

#include <stdio.h>
#include <string.h>

#define UUID_BYTES 16

/* nvmlPciInfo_t */
typedef struct {
  char legacy_bus_id[16];
  unsigned domain;
  unsigned bus;
  unsigned device;
  unsigned device_id;
  unsigned subsystem_id;
  char bus_id[32];
} pci_information;

/* nvmlDeviceArchitecture_t */
enum {
  NVML_DEVICE_ARCH_PASCAL = 4,
  NVML_DEVICE_ARCH_VOLTA = 5,
  NVML_DEVICE_ARCH_TURING = 6,
  NVML_DEVICE_ARCH_AMPERE = 7,
  NVML_DEVICE_ARCH_ADA = 8,
  NVML_DEVICE_ARCH_HOPPER = 9,
  NVML_DEVICE_ARCH_BLACKWELL = 10
};

VD_EXPORT int nvmlDeviceGetName(void *handle, char *name, unsigned room)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  return status != NVML_SUCCESS ? status : nvml_text(name, room, vd_the_card()->name);
}

/* "GPU-" and the bytes in hexadecimal, in groups of 4, 2, 2, 2 and 6. */
static void write_uuid(char *text, const unsigned char uuid[UUID_BYTES])
{
  text += sprintf(text, "GPU-");
  for (int i = 0; i < UUID_BYTES; i++) {
    int group_begins = i == 4 || i == 6 || i == 8 || i == 10;
    text += sprintf(text, group_begins ? "-%02x" : "%02x", uuid[i]);
  }
}

VD_EXPORT int nvmlDeviceGetUUID(void *handle, char *text, unsigned room)
{
  int physical;
  unsigned char uuid[UUID_BYTES];
  char written[64];
  int status = nvml_physical(handle, &physical);
  if (status != NVML_SUCCESS)
    return status;
  vd_uuid(physical, uuid);
  write_uuid(written, uuid);
  return nvml_text(text, room, written);
}

static int get_number(void *handle, unsigned *number)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  if (status == NVML_SUCCESS)
    *number = (unsigned)physical;
  return status;
}

VD_EXPORT int nvmlDeviceGetIndex(void *handle, unsigned *index)
{
  return get_number(handle, index);
}

VD_EXPORT int nvmlDeviceGetMinorNumber(void *handle, unsigned *number)
{
  return get_number(handle, number);
}

VD_EXPORT int nvmlDeviceGetBoardId(void *handle, unsigned *number)
{
  return get_number(handle, number);
}

VD_EXPORT int nvmlDeviceGetMultiGpuBoard(void *handle, unsigned *several)
{
  *several = 0;
  int physical;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceGetPciInfo_v3(void *handle, pci_information *pci)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  if (status != NVML_SUCCESS)
    return status;
  memset(pci, 0, sizeof *pci);
  pci->bus = (unsigned)vd_pci_bus(physical);
  snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
  snprintf(pci->legacy_bus_id, sizeof pci->legacy_bus_id, "0000:%02X:00.0", pci->bus);
  return NVML_SUCCESS;
}

VD_EXPORT int nvmlDeviceGetPciInfo_v2(void *handle, pci_information *pci)
{
  return nvmlDeviceGetPciInfo_v3(handle, pci);
}

/* ---- kind of card ---- */

VD_EXPORT int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
  int physical;
  *major = vd_the_card()->major;
  *minor = vd_the_card()->minor;
  return nvml_physical(handle, &physical);
}

static unsigned architecture(int major, int minor)
{
  switch (major) {
  case 6:
    return NVML_DEVICE_ARCH_PASCAL;
  case 7:
    return minor < 5 ? NVML_DEVICE_ARCH_VOLTA : NVML_DEVICE_ARCH_TURING;
  case 8:
    return minor < 9 ? NVML_DEVICE_ARCH_AMPERE : NVML_DEVICE_ARCH_ADA;
  case 9:
    return NVML_DEVICE_ARCH_HOPPER;
  default:
    return NVML_DEVICE_ARCH_BLACKWELL;
  }
}

VD_EXPORT int nvmlDeviceGetArchitecture(void *handle, unsigned *kind)
{
  int physical;
  *kind = architecture(vd_the_card()->major, vd_the_card()->minor);
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceGetMemoryBusWidth(void *handle, unsigned *bits)
{
  int physical;
  *bits = (unsigned)vd_the_card()->bus_bits;
  return nvml_physical(handle, &physical);
}

/* ---- parts of cards: there are none ---- */

VD_EXPORT int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count)
{
  *count = 0;
  int physical;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *is_part)
{
  *is_part = 0;
  int physical;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceGetVirtualizationMode(void *handle, unsigned *mode)
{
  *mode = 0; /* NVML_GPU_VIRTUALIZATION_MODE_NONE */
  int physical;
  return nvml_physical(handle, &physical);
}
