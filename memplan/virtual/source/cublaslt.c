/* cuBLASLt's descriptors (cublasLt.h), whose attributes are kept and read back, and a
 * heuristic that always finds one algorithm.
 *
 * The algorithm asks for no workspace: PyTorch allocates the workspace that it offers,
 * whatever is asked, so its memory does not depend on the answer. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#ifndef VD_CUBLAS_VERSION
#define VD_CUBLAS_VERSION 0
#endif

#ifndef VD_RUNTIME_VERSION
#define VD_RUNTIME_VERSION 0
#endif

/* cublasStatus_t */
enum {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_ALLOC_FAILED = 3,
  CUBLAS_STATUS_INVALID_VALUE = 7
};

#define CONFIGURATIONS 16 /* cublasLtMatmulAlgo_t has 64 bytes */

typedef struct {
  int32_t configurations[CONFIGURATIONS];
} algorithm;

/* cublasLtMatmulHeuristicResult_t */
typedef struct {
  algorithm found;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
} heuristic_result;

typedef struct attribute {
  int name;
  size_t bytes;
  struct attribute *next;
  unsigned char value[];
} attribute;

typedef struct {
  attribute *attributes;
} descriptor;

/* ---- descriptors: of a product, a layout, a transformation, a preference ---- */

static int create(descriptor **made)
{
  *made = calloc(1, sizeof **made);
  return *made != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

static int destroy(descriptor *dropped)
{
  while (dropped != NULL && dropped->attributes != NULL) {
    attribute *first = dropped->attributes;
    dropped->attributes = first->next;
    free(first);
  }
  free(dropped);
  return CUBLAS_STATUS_SUCCESS;
}

static void remove_attribute(descriptor *changed, int name)
{
  attribute **link = &changed->attributes;
  while (*link != NULL && (*link)->name != name)
    link = &(*link)->next;
  if (*link != NULL) {
    attribute *removed = *link;
    *link = removed->next;
    free(removed);
  }
}

static int set_attribute(descriptor *changed, int name, const void *value, size_t bytes)
{
  attribute *added = malloc(sizeof *added + bytes);
  if (added == NULL)
    return CUBLAS_STATUS_ALLOC_FAILED;
  remove_attribute(changed, name);
  added->name = name;
  added->bytes = bytes;
  added->next = changed->attributes;
  memcpy(added->value, value, bytes);
  changed->attributes = added;
  return CUBLAS_STATUS_SUCCESS;
}

/* What was never set reads as zero, which is the default of nearly every attribute. */
static int get_attribute(const descriptor *asked, int name, void *value, size_t room,
                         size_t *written)
{
  const attribute *kept = asked->attributes;
  while (kept != NULL && kept->name != name)
    kept = kept->next;
  size_t bytes = kept != NULL ? kept->bytes : room;
  if (written != NULL)
    *written = bytes;
  if (value == NULL)
    return CUBLAS_STATUS_SUCCESS;
  if (room < bytes)
    return CUBLAS_STATUS_INVALID_VALUE;
  memset(value, 0, room);
  if (kept != NULL)
    memcpy(value, kept->value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

#define HAS_ATTRIBUTES(name)                                                          \
  VD_EXPORT int cublasLt##name##Destroy(descriptor *dropped)                          \
  {                                                                                   \
    return destroy(dropped);                                                          \
  }                                                                                   \
  VD_EXPORT int cublasLt##name##SetAttribute(descriptor *changed, int attribute_name, \
                                             const void *value, size_t bytes)         \
  {                                                                                   \
    return set_attribute(changed, attribute_name, value, bytes);                      \
  }                                                                                   \
  VD_EXPORT int cublasLt##name##GetAttribute(const descriptor *asked,                 \
                                             int attribute_name, void *value,         \
                                             size_t room, size_t *written)            \
  {                                                                                   \
    return get_attribute(asked, attribute_name, value, room, written);                \
  }

HAS_ATTRIBUTES(MatmulDesc)
HAS_ATTRIBUTES(MatrixLayout)
HAS_ATTRIBUTES(MatrixTransformDesc)
HAS_ATTRIBUTES(MatmulPreference)

VD_EXPORT int cublasLtMatmulDescCreate(descriptor **made, int compute_type,
                                       int scale_type)
{
  (void)compute_type, (void)scale_type;
  return create(made);
}

VD_EXPORT int cublasLtMatrixLayoutCreate(descriptor **made, int type, uint64_t rows,
                                         uint64_t columns, int64_t leading)
{
  (void)type, (void)rows, (void)columns, (void)leading;
  return create(made);
}

VD_EXPORT int cublasLtMatrixTransformDescCreate(descriptor **made, int scale_type)
{
  (void)scale_type;
  return create(made);
}

VD_EXPORT int cublasLtMatmulPreferenceCreate(descriptor **made)
{
  return create(made);
}

/* ---- handles and versions ---- */

VD_EXPORT int cublasLtCreate(descriptor **made)
{
  vd_use_device(vd_current_device());
  return create(made);
}

VD_EXPORT int cublasLtDestroy(descriptor *used)
{
  return destroy(used);
}

VD_EXPORT size_t cublasLtGetVersion(void)
{
  return VD_CUBLAS_VERSION;
}

VD_EXPORT size_t cublasLtGetCudartVersion(void)
{
  return VD_RUNTIME_VERSION;
}

/* ---- the one algorithm ---- */

static void fill_result(heuristic_result *result)
{
  *result = (heuristic_result){.state = CUBLAS_STATUS_SUCCESS, .waves = 1.0F};
}

VD_EXPORT int cublasLtMatmulAlgoGetHeuristic(void *used, void *product, void *a,
                                             void *b, void *c, void *d,
                                             void *preference, int wanted,
                                             heuristic_result *results, int *count)
{
  (void)used, (void)product, (void)a, (void)b, (void)c, (void)d, (void)preference;
  if (wanted < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  fill_result(results);
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasLtMatmulAlgoCheck(void *used, void *product, void *a, void *b,
                                      void *c, void *d, const algorithm *checked,
                                      heuristic_result *result)
{
  (void)used, (void)product, (void)a, (void)b, (void)c, (void)d;
  fill_result(result);
  result->found = *checked;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasLtMatmulAlgoGetIds(void *used, int compute_type, int scale_type,
                                       int a_type, int b_type, int c_type, int d_type,
                                       int wanted, int *ids, int *count)
{
  (void)used, (void)compute_type, (void)scale_type;
  (void)a_type, (void)b_type, (void)c_type, (void)d_type;
  if (wanted < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  ids[0] = 0;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasLtMatmulAlgoInit(void *used, int compute_type, int scale_type,
                                     int a_type, int b_type, int c_type, int d_type,
                                     int id, algorithm *made)
{
  (void)used, (void)compute_type, (void)scale_type;
  (void)a_type, (void)b_type, (void)c_type, (void)d_type;
  *made = (algorithm){.configurations = {id}};
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasLtMatmul(void *used, void *product, const void *alpha, const void *a,
                             void *a_layout, const void *b, void *b_layout,
                             const void *beta, const void *c, void *c_layout, void *d,
                             void *d_layout, const algorithm *chosen, void *workspace,
                             size_t workspace_bytes, void *stream)
{
  (void)used, (void)product, (void)alpha, (void)a, (void)a_layout, (void)b;
  (void)b_layout, (void)beta, (void)c, (void)c_layout, (void)d, (void)d_layout;
  (void)chosen, (void)workspace, (void)workspace_bytes;
  vd_compute_on(stream);
  return CUBLAS_STATUS_SUCCESS;
}

/* The configurations of an algorithm are numbers of two or four bytes. */
static int is_configuration(int name, size_t bytes)
{
  return name >= 0 && name < CONFIGURATIONS && bytes <= sizeof(int32_t);
}

VD_EXPORT int cublasLtMatmulAlgoConfigSetAttribute(algorithm *changed, int name,
                                                   const void *value, size_t bytes)
{
  if (!is_configuration(name, bytes))
    return CUBLAS_STATUS_INVALID_VALUE;
  changed->configurations[name] = 0;
  memcpy(&changed->configurations[name], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

VD_EXPORT int cublasLtMatmulAlgoConfigGetAttribute(const algorithm *asked, int name,
                                                   void *value, size_t room,
                                                   size_t *written)
{
  if (!is_configuration(name, room))
    return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(value, &asked->configurations[name], room);
  if (written != NULL)
    *written = room;
  return CUBLAS_STATUS_SUCCESS;
}
