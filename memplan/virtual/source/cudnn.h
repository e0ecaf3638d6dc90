/* What the C files of the virtual cuDNN share: the few numbers of cuDNN 9's public
 * headers (cudnn_graph.h, cudnn_ops.h, cudnn_adv.h) that they use, under NVIDIA's own
 * names, and the real library. */
#ifndef MEMPLAN_CUDNN_H
#define MEMPLAN_CUDNN_H

#include <stddef.h>
#include <stdint.h>

#include "device.h"

#define CUDNN_INTERNAL __attribute__((visibility("hidden")))

/* cudnnStatus_t */
enum {
  CUDNN_STATUS_SUCCESS = 0,
  CUDNN_STATUS_BAD_PARAM = 2000,
  CUDNN_STATUS_NOT_SUPPORTED = 3000,
  CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED = 4003
};

/* cudnnBackendDescriptorType_t */
enum {
  CUDNN_BACKEND_ENGINE_DESCRIPTOR = 2,
  CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR = 4,
  CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR = 5,
  CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR = 16,
  CUDNN_BACKEND_KERNEL_CACHE_DESCRIPTOR = 34,
  CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR = 38
};

/* cudnnBackendAttributeName_t */
enum {
  CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH = 201,
  CUDNN_ATTR_ENGINEHEUR_RESULTS = 202,
  CUDNN_ATTR_ENGINEHEUR_DEVICEPROP = 204,
  CUDNN_ATTR_ENGINECFG_ENGINE = 300,
  CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE = 303,
  CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE = 402,
  CUDNN_ATTR_EXECUTION_PLAN_KERNEL_CACHE = 406,
  CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP = 407,
  CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT = 802,
  CUDNN_ATTR_ENGINE_OPERATION_GRAPH = 1300,
  CUDNN_ATTR_ENGINE_GLOBAL_INDEX = 1301,
  CUDNN_ATTR_ENGINE_DEVICEPROP = 1307,
  CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION = 2702
};

/* cudnnBackendAttributeType_t */
enum {
  CUDNN_TYPE_HANDLE = 0,
  CUDNN_TYPE_BOOLEAN = 2,
  CUDNN_TYPE_INT64 = 3,
  CUDNN_TYPE_DOUBLE = 5,
  CUDNN_TYPE_VOID_PTR = 6,
  CUDNN_TYPE_BACKEND_DESCRIPTOR = 15,
  CUDNN_TYPE_CHAR = 24,
  CUDNN_TYPE_FRACTION = 26
};

/* cudnnDataType_t */
enum {
  CUDNN_DATA_FLOAT = 0,
  CUDNN_DATA_DOUBLE = 1,
  CUDNN_DATA_HALF = 2,
  CUDNN_DATA_BFLOAT16 = 9
};

#define CUDNN_DIM_MAX 8

/* ---- cudnn_tensors.c: tensors and filters of the older interface ---- */
typedef struct {
  int data_type;
  int format; /* of filters */
  int rank;
  int sizes[CUDNN_DIM_MAX];
  int strides[CUDNN_DIM_MAX];
} cudnn_tensor;

CUDNN_INTERNAL size_t cudnn_element_bytes(int data_type);

/* ---- cudnn_real.c: the real library, used without a device ---- */
typedef struct {
  int (*create)(int kind, void **descriptor);
  int (*destroy)(void *descriptor);
  int (*finalize)(void *descriptor);
  int (*set)(void *descriptor, int name, int type, int64_t count, const void *values);
  int (*get)(void *descriptor, int name, int type, int64_t wanted, int64_t *count,
             void *values);
  const char *(*error_string)(int status);
  void (*last_error)(char *text, size_t room);
  size_t (*version)(void);
  void *card; /* the card described, a descriptor of cuDNN's own */
} cudnn_library;

/* NULL where its heuristics cannot be asked: that is then counted as unsupported. */
CUDNN_INTERNAL const cudnn_library *real_cudnn(void);
CUDNN_INTERNAL size_t real_cudnn_version(void); /* 0: there is no real library */

/* ---- cudnn_store.c: descriptors where there is no real library ---- */
typedef struct stored_descriptor stored_descriptor;

CUDNN_INTERNAL stored_descriptor *store_create(int kind);
CUDNN_INTERNAL void store_release(stored_descriptor *descriptor);
CUDNN_INTERNAL int store_set(stored_descriptor *descriptor, int name, int type,
                             int64_t count, const void *values);
CUDNN_INTERNAL int store_get(stored_descriptor *descriptor, int name, int type,
                             int64_t wanted, int64_t *count, void *values);

#endif
