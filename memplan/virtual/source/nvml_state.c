/* What a device is doing (nvml.h): nothing, so it draws no power, its utilization is
 * zero, and it is as warm as the room. Its clocks are those of the card. */
#include "nvml.h"

#include <string.h>

#define ROOM_TEMPERATURE 25 /* degrees Celsius */

enum { NVML_CLOCK_GRAPHICS = 0, NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2 };

/* nvmlUtilization_t */
typedef struct {
  unsigned device;
  unsigned memory;
} utilization;

/* nvmlTemperature_v1_t */
typedef struct {
  unsigned version;
  unsigned sensor;
  int degrees;
} temperature;

/* ---- clocks, in MHz ---- */

static int get_clock(void *handle, unsigned kind, unsigned *megahertz)
{
  int physical;
  const vd_card *card = vd_the_card();
  int status = nvml_physical(handle, &physical);
  if (status != NVML_SUCCESS)
    return status;
  switch (kind) {
  case NVML_CLOCK_GRAPHICS:
  case NVML_CLOCK_SM:
    *megahertz = (unsigned)card->clock_khz / 1000;
    return NVML_SUCCESS;
  case NVML_CLOCK_MEM:
    *megahertz = (unsigned)card->memory_clock_khz / 1000;
    return NVML_SUCCESS;
  default:
    return NVML_ERROR_NOT_SUPPORTED;
  }
}

VD_EXPORT int nvmlDeviceGetClockInfo(void *handle, unsigned kind, unsigned *megahertz)
{
  return get_clock(handle, kind, megahertz);
}

VD_EXPORT int nvmlDeviceGetMaxClockInfo(void *handle, unsigned kind,
                                        unsigned *megahertz)
{
  return get_clock(handle, kind, megahertz);
}

VD_EXPORT int nvmlDeviceGetApplicationsClock(void *handle, unsigned kind,
                                             unsigned *megahertz)
{
  return get_clock(handle, kind, megahertz);
}

VD_EXPORT int nvmlDeviceGetDefaultApplicationsClock(void *handle, unsigned kind,
                                                    unsigned *megahertz)
{
  return get_clock(handle, kind, megahertz);
}

VD_EXPORT int nvmlDeviceGetMaxCustomerBoostClock(void *handle, unsigned kind,
                                                 unsigned *megahertz)
{
  return get_clock(handle, kind, megahertz);
}

VD_EXPORT int nvmlDeviceGetClock(void *handle, unsigned kind, unsigned which,
                                 unsigned *megahertz)
{
  (void)which;
  return get_clock(handle, kind, megahertz);
}

/* ---- at rest ---- */

static int is_zero(void *handle, unsigned *value)
{
  int physical;
  int status = nvml_physical(handle, &physical);
  if (status == NVML_SUCCESS)
    *value = 0;
  return status;
}

VD_EXPORT int nvmlDeviceGetUtilizationRates(void *handle, utilization *answer)
{
  answer->memory = 0;
  return is_zero(handle, &answer->device);
}

VD_EXPORT int nvmlDeviceGetEncoderUtilization(void *handle, unsigned *percent,
                                              unsigned *period_us)
{
  *period_us = 0;
  return is_zero(handle, percent);
}

VD_EXPORT int nvmlDeviceGetDecoderUtilization(void *handle, unsigned *percent,
                                              unsigned *period_us)
{
  *period_us = 0;
  return is_zero(handle, percent);
}

VD_EXPORT int nvmlDeviceGetProcessUtilization(void *handle, void *samples,
                                              unsigned *count, unsigned long long since)
{
  (void)samples, (void)since;
  int status = is_zero(handle, count);
  return status == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : status;
}

VD_EXPORT int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts)
{
  return is_zero(handle, milliwatts);
}

VD_EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *handle,
                                                  unsigned long long *millijoules)
{
  int physical;
  *millijoules = 0;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *degrees)
{
  int physical;
  *degrees = ROOM_TEMPERATURE;
  if (sensor != 0) /* NVML_TEMPERATURE_GPU is the only one */
    return NVML_ERROR_INVALID_ARGUMENT;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceGetTemperatureV(void *handle, temperature *answer)
{
  int physical;
  answer->degrees = ROOM_TEMPERATURE;
  return nvml_physical(handle, &physical);
}

/* ---- modes: those that are 0 are the defaults ---- */

VD_EXPORT int nvmlDeviceGetPersistenceMode(void *handle, unsigned *enabled)
{
  int physical;
  *enabled = 1;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlDeviceGetComputeMode(void *handle, unsigned *mode)
{
  return is_zero(handle, mode);
}

VD_EXPORT int nvmlDeviceGetDisplayMode(void *handle, unsigned *enabled)
{
  return is_zero(handle, enabled);
}

VD_EXPORT int nvmlDeviceGetDisplayActive(void *handle, unsigned *active)
{
  return is_zero(handle, active);
}

VD_EXPORT int nvmlDeviceGetPerformanceState(void *handle, unsigned *state)
{
  return is_zero(handle, state);
}
