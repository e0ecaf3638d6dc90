/* How the devices of the machine are joined (nvml.h): over PCIe, each able to reach the
 * memory of every other, without NVLink and without a fabric. */
#include "nvml.h"

#include <string.h>

enum { NVML_TOPOLOGY_INTERNAL = 0, NVML_TOPOLOGY_NODE = 40 };
enum { NVML_P2P_CAPS_INDEX_NVLINK = 2 };
enum { NVML_P2P_STATUS_OK = 0, NVML_P2P_STATUS_NOT_SUPPORTED = 5 };

/* nvmlGpuFabricInfoV_t */
typedef struct {
  unsigned version;
  unsigned char cluster_uuid[16];
  unsigned status;
  unsigned clique;
  unsigned char state; /* 0: NVML_GPU_FABRIC_STATE_NOT_SUPPORTED */
} fabric;

/* nvmlFieldValue_t */
typedef struct {
  unsigned field;
  unsigned scope;
  long long timestamp;
  long long latency_us;
  unsigned type;
  int result;
  unsigned long long value;
} field_value;

static int know_both(void *one, void *other, int *same)
{
  int first;
  int second;
  int status = nvml_physical(one, &first);
  if (status == NVML_SUCCESS)
    status = nvml_physical(other, &second);
  *same = status == NVML_SUCCESS && first == second;
  return status;
}

VD_EXPORT int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, int *level)
{
  int same;
  int status = know_both(one, other, &same);
  *level = same ? NVML_TOPOLOGY_INTERNAL : NVML_TOPOLOGY_NODE;
  return status;
}

VD_EXPORT int nvmlDeviceGetP2PStatus(void *one, void *other, int capability,
                                     int *answer)
{
  int same;
  int status = know_both(one, other, &same);
  int over_nvlink = capability == NVML_P2P_CAPS_INDEX_NVLINK;
  *answer = over_nvlink ? NVML_P2P_STATUS_NOT_SUPPORTED : NVML_P2P_STATUS_OK;
  return status;
}

VD_EXPORT int nvmlDeviceOnSameBoard(void *one, void *other, int *same)
{
  return know_both(one, other, same);
}

VD_EXPORT int nvmlDeviceGetGpuFabricInfoV(void *handle, fabric *answer)
{
  int physical;
  unsigned version = answer->version;
  memset(answer, 0, sizeof *answer);
  answer->version = version;
  return nvml_physical(handle, &physical);
}

/* Each field has a result of its own. */
VD_EXPORT int nvmlDeviceGetFieldValues(void *handle, int count, field_value *values)
{
  int physical;
  for (int i = 0; i < count; i++)
    values[i].result = NVML_ERROR_NOT_SUPPORTED;
  return nvml_physical(handle, &physical);
}

VD_EXPORT int nvmlUnitGetCount(unsigned *count)
{
  *count = 0;
  return NVML_SUCCESS;
}
