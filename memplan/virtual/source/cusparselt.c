/* cuSPARSELt's versions and messages (cusparseLt.h). */
#include "device.h"
#include "versions.h"

#ifndef VD_CUSPARSELT_VERSION
#define VD_CUSPARSELT_VERSION 0
#endif

/* cusparseStatus_t */
enum { CUSPARSE_STATUS_SUCCESS = 0, CUSPARSE_STATUS_INVALID_VALUE = 3 };

VD_EXPORT int cusparseLtGetVersion(const void *handle, int *version)
{
  (void)handle;
  *version = VD_CUSPARSELT_VERSION;
  return CUSPARSE_STATUS_SUCCESS;
}

VD_EXPORT int cusparseLtGetProperty(int property, int *value)
{
  int known = version_part(VD_CUSPARSELT_VERSION, 1000, property, value);
  return known ? CUSPARSE_STATUS_SUCCESS : CUSPARSE_STATUS_INVALID_VALUE;
}

VD_EXPORT const char *cusparseLtGetErrorName(int status)
{
  return status == CUSPARSE_STATUS_SUCCESS ? "CUSPARSE_STATUS_SUCCESS"
                                           : "unrecognized error code";
}

VD_EXPORT const char *cusparseLtGetErrorString(int status)
{
  return cusparseLtGetErrorName(status);
}
