/* cuRAND's versions (curand.h). */
#include "device.h"
#include "versions.h"

#ifndef VD_CURAND_VERSION
#define VD_CURAND_VERSION 0
#endif

/* curandStatus */
enum { CURAND_STATUS_SUCCESS = 0, CURAND_STATUS_OUT_OF_RANGE = 104 };

VD_EXPORT int curandGetVersion(int *version)
{
  *version = VD_CURAND_VERSION;
  return CURAND_STATUS_SUCCESS;
}

VD_EXPORT int curandGetProperty(int property, int *value)
{
  int known = version_part(VD_CURAND_VERSION, 1000, property, value);
  return known ? CURAND_STATUS_SUCCESS : CURAND_STATUS_OUT_OF_RANGE;
}
