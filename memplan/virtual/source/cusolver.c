/* cuSOLVER's versions (cusolver_common.h). Its routines compute and do nothing; how
 * large a workspace they need is not public, and is generated as unsupported. */
#include "device.h"
#include "versions.h"

#ifndef VD_CUSOLVER_VERSION
#define VD_CUSOLVER_VERSION 0
#endif

/* cusolverStatus_t */
enum { CUSOLVER_STATUS_SUCCESS = 0, CUSOLVER_STATUS_INVALID_VALUE = 3 };

VD_EXPORT int cusolverGetVersion(int *version)
{
  *version = VD_CUSOLVER_VERSION;
  return CUSOLVER_STATUS_SUCCESS;
}

VD_EXPORT int cusolverGetProperty(int property, int *value)
{
  int known = version_part(VD_CUSOLVER_VERSION, 1000, property, value);
  return known ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INVALID_VALUE;
}
