/* cuDNN's graph API (cudnn_graph.h): each descriptor of the program is mirrored by one
 * of the real library, with the card described in place of a handle. Plans are made and
 * their workspaces asked for, as on a card; executing one does nothing. */
#include "cudnn.h"

#include <stdlib.h>

#define MOST_DESCRIPTORS 512 /* in one attribute: the results of a heuristic */

typedef struct {
  int kind;
  void *real;                /* the descriptor of the real library, or NULL */
  stored_descriptor *stored; /* what stands for it where there is none */
} mirror;

/* These hold addresses of the device and compiled kernels: they serve execution alone.
 */
static int serves_execution(int kind)
{
  return kind == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR ||
         kind == CUDNN_BACKEND_KERNEL_CACHE_DESCRIPTOR;
}

static int create_parts(mirror *made)
{
  const cudnn_library *real = real_cudnn();
  if (real != NULL && !serves_execution(made->kind))
    return real->create(made->kind, &made->real);
  made->stored = store_create(made->kind);
  return made->stored != NULL ? CUDNN_STATUS_SUCCESS
                              : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
}

VD_EXPORT int cudnnBackendCreateDescriptor(int kind, void **descriptor)
{
  mirror *made = calloc(1, sizeof *made);
  if (made == NULL)
    return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
  made->kind = kind;
  int status = create_parts(made);
  if (status != CUDNN_STATUS_SUCCESS) {
    free(made);
    return status;
  }
  *descriptor = made;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnBackendDestroyDescriptor(void *descriptor)
{
  mirror *dropped = descriptor;
  int status = CUDNN_STATUS_SUCCESS;
  if (dropped == NULL)
    return status;
  if (dropped->real != NULL)
    status = real_cudnn()->destroy(dropped->real);
  store_release(dropped->stored);
  free(dropped);
  return status;
}

/* ---- finalizing: where the card takes the handle's place ---- */

static int card_attribute(int kind)
{
  switch (kind) {
  case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
    return CUDNN_ATTR_ENGINE_DEVICEPROP;
  case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
    return CUDNN_ATTR_ENGINEHEUR_DEVICEPROP;
  case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
    return CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP;
  default:
    return -1;
  }
}

static int give_card(const cudnn_library *real, const mirror *finalized)
{
  int name = card_attribute(finalized->kind);
  if (name < 0)
    return CUDNN_STATUS_SUCCESS;
  return real->set(finalized->real, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                   &real->card);
}

VD_EXPORT int cudnnBackendFinalize(void *descriptor)
{
  mirror *finalized = descriptor;
  if (finalized->real == NULL)
    return CUDNN_STATUS_SUCCESS;
  const cudnn_library *real = real_cudnn();
  int status = give_card(real, finalized);
  if (status != CUDNN_STATUS_SUCCESS) {
    vd_log("cuDNN: a descriptor of kind %d took no card: %d\n", finalized->kind,
           status);
  }
  return real->finalize(finalized->real);
}

/* ---- attributes ---- */

static void *real_of(const mirror *one)
{
  return one != NULL ? one->real : NULL;
}

static void reals_of(void **reals, void *const *mirrors, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    reals[i] = real_of(mirrors[i]);
}

static void stores_of(void **stores, void *const *mirrors, int64_t count)
{
  for (int64_t i = 0; i < count; i++) {
    const mirror *one = mirrors[i];
    stores[i] = one != NULL ? one->stored : NULL;
  }
}

/* Handles are ours and mean nothing to the real library. */
static int concerns_execution(int name, int type)
{
  return type == CUDNN_TYPE_HANDLE || name == CUDNN_ATTR_EXECUTION_PLAN_KERNEL_CACHE;
}

VD_EXPORT int cudnnBackendSetAttribute(void *descriptor, int name, int type,
                                       int64_t count, const void *values)
{
  mirror *changed = descriptor;
  void *parts[MOST_DESCRIPTORS];
  if (concerns_execution(name, type))
    return CUDNN_STATUS_SUCCESS;
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    if (count > MOST_DESCRIPTORS)
      return CUDNN_STATUS_NOT_SUPPORTED;
    if (changed->real != NULL)
      reals_of(parts, values, count);
    else
      stores_of(parts, values, count);
    values = parts;
  }
  if (changed->real != NULL)
    return real_cudnn()->set(changed->real, name, type, count, values);
  return store_set(changed->stored, name, type, count, values);
}

VD_EXPORT int cudnnBackendGetAttribute(void *descriptor, int name, int type,
                                       int64_t wanted, int64_t *count, void *values)
{
  mirror *asked = descriptor;
  void *parts[MOST_DESCRIPTORS];
  int64_t unused;
  count = count != NULL ? count : &unused;
  *count = 0;
  if (concerns_execution(name, type))
    return CUDNN_STATUS_SUCCESS;
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR && values != NULL) {
    wanted = wanted < MOST_DESCRIPTORS ? wanted : MOST_DESCRIPTORS;
    if (asked->real != NULL)
      reals_of(parts, values, wanted);
    else
      stores_of(parts, values, wanted);
    values = parts;
  }
  if (asked->real != NULL)
    return real_cudnn()->get(asked->real, name, type, wanted, count, values);
  return store_get(asked->stored, name, type, wanted, count, values);
}
