/* cuFFT's plans and versions (cufft.h). A plan is a number. How large a work area it
 * needs is not public, and is generated as unsupported. */
#include "device.h"
#include "versions.h"

#ifndef VD_CUFFT_VERSION
#define VD_CUFFT_VERSION 0
#endif

/* cufftResult */
enum { CUFFT_SUCCESS = 0, CUFFT_INVALID_VALUE = 4 };

VD_EXPORT int cufftCreate(int *plan)
{
  static int made;
  *plan = __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED);
  return CUFFT_SUCCESS;
}

/* These also allocate the work area, out of PyTorch's sight. */
#define MAKES_PLAN(function)        \
  VD_EXPORT int function(int *plan) \
  {                                 \
    vd_unsupported(#function);      \
    return cufftCreate(plan);       \
  }

MAKES_PLAN(cufftPlan1d)
MAKES_PLAN(cufftPlan2d)
MAKES_PLAN(cufftPlan3d)
MAKES_PLAN(cufftPlanMany)

VD_EXPORT int cufftGetVersion(int *version)
{
  *version = VD_CUFFT_VERSION;
  return CUFFT_SUCCESS;
}

VD_EXPORT int cufftGetProperty(int property, int *value)
{
  int known = version_part(VD_CUFFT_VERSION, 1000, property, value);
  return known ? CUFFT_SUCCESS : CUFFT_INVALID_VALUE;
}
