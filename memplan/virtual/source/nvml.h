/* What the C files of the virtual NVML share: numbers of nvml.h under its own names,
 * and what a handle of a device means. */
#ifndef MEMPLAN_NVML_H
#define MEMPLAN_NVML_H

#include <stddef.h>
#include <stdint.h>

#include "device.h"

#define NVML_INTERNAL __attribute__((visibility("hidden")))

/* nvmlReturn_t */
enum {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NO_PERMISSION = 4,
  NVML_ERROR_ALREADY_INITIALIZED = 5,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_DRIVER_NOT_LOADED = 9,
  NVML_ERROR_TIMEOUT = 10,
  NVML_ERROR_FUNCTION_NOT_FOUND = 13,
  NVML_ERROR_NO_DATA = 21,
  NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
  NVML_ERROR_UNKNOWN = 999
};

/* A handle is the number of the device in the machine, from 1 on, as a pointer. */
NVML_INTERNAL int nvml_physical(const void *handle, int *physical);
NVML_INTERNAL int nvml_text(char *to, unsigned room, const char *text);
int nvmlDeviceGetUUID(void *handle, char *text, unsigned room);

#endif
