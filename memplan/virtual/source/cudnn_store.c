/* Descriptors of the graph API where the real cuDNN cannot be asked.
 *
 * Whatever is set is kept and read back; the heuristics answer with a single engine
 * that needs no workspace. The report names this as unsupported. */
#include "cudnn.h"

#include <stdlib.h>
#include <string.h>

typedef struct attribute {
  int name;
  int type;
  int64_t count;
  void *values;
  struct attribute *next;
} attribute;

struct stored_descriptor {
  int kind;
  int references;
  attribute *attributes;
};

/* cudnnFraction_t is two 64-bit integers; every type not named is an enumeration. */
static size_t bytes_of_type(int type)
{
  switch (type) {
  case CUDNN_TYPE_HANDLE:
  case CUDNN_TYPE_INT64:
  case CUDNN_TYPE_DOUBLE:
  case CUDNN_TYPE_VOID_PTR:
  case CUDNN_TYPE_BACKEND_DESCRIPTOR:
    return 8;
  case CUDNN_TYPE_BOOLEAN:
  case CUDNN_TYPE_CHAR:
    return 1;
  case CUDNN_TYPE_FRACTION:
    return 16;
  default:
    return 4;
  }
}

stored_descriptor *store_create(int kind)
{
  stored_descriptor *descriptor = calloc(1, sizeof *descriptor);
  if (descriptor != NULL) {
    descriptor->kind = kind;
    descriptor->references = 1;
  }
  return descriptor;
}

static void hold_descriptors(const attribute *held)
{
  stored_descriptor **descriptors = held->values;
  for (int64_t i = 0; held->type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < held->count;
       i++) {
    if (descriptors[i] != NULL)
      __atomic_add_fetch(&descriptors[i]->references, 1, __ATOMIC_ACQ_REL);
  }
}

static void drop_attribute(attribute *dropped)
{
  stored_descriptor **descriptors = dropped->values;
  for (int64_t i = 0;
       dropped->type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < dropped->count; i++) {
    store_release(descriptors[i]);
  }
  free(dropped->values);
  free(dropped);
}

void store_release(stored_descriptor *descriptor)
{
  if (descriptor == NULL ||
      __atomic_sub_fetch(&descriptor->references, 1, __ATOMIC_ACQ_REL) > 0) {
    return;
  }
  attribute *next = descriptor->attributes;
  while (next != NULL) {
    attribute *dropped = next;
    next = next->next;
    drop_attribute(dropped);
  }
  free(descriptor);
}

static attribute *find_attribute(const stored_descriptor *descriptor, int name)
{
  attribute *found = descriptor->attributes;
  while (found != NULL && found->name != name)
    found = found->next;
  return found;
}

static void remove_attribute(stored_descriptor *descriptor, int name)
{
  attribute **link = &descriptor->attributes;
  while (*link != NULL && (*link)->name != name)
    link = &(*link)->next;
  if (*link != NULL) {
    attribute *removed = *link;
    *link = removed->next;
    drop_attribute(removed);
  }
}

int store_set(stored_descriptor *descriptor, int name, int type, int64_t count,
              const void *values)
{
  size_t bytes = (size_t)count * bytes_of_type(type);
  attribute *added = calloc(1, sizeof *added);
  void *copy = malloc(bytes + 1);
  if (added == NULL || copy == NULL) {
    free(added);
    free(copy);
    return CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
  }
  if (bytes > 0 && values != NULL)
    memcpy(copy, values, bytes);
  *added = (attribute){name, type, count, copy, NULL};
  hold_descriptors(added);
  remove_attribute(descriptor, name);
  added->next = descriptor->attributes;
  descriptor->attributes = added;
  return CUDNN_STATUS_SUCCESS;
}

/* ---- reading ---- */

/* The caller hands in descriptors, which are filled as copies of those kept. */
static void copy_descriptor(stored_descriptor *to, const stored_descriptor *from)
{
  if (to == NULL || from == NULL || to == from)
    return;
  for (const attribute *next = from->attributes; next != NULL; next = next->next)
    store_set(to, next->name, next->type, next->count, next->values);
}

static void read_attribute(const attribute *kept, int64_t wanted, void *values)
{
  int64_t count = kept->count < wanted ? kept->count : wanted;
  if (kept->type != CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    memcpy(values, kept->values, (size_t)count * bytes_of_type(kept->type));
    return;
  }
  stored_descriptor **to = values;
  stored_descriptor **from = kept->values;
  for (int64_t i = 0; i < count; i++)
    copy_descriptor(to[i], from[i]);
}

/* One engine configuration, of an engine that has number 0. */
static void one_engine(const stored_descriptor *heuristics, stored_descriptor *config)
{
  stored_descriptor *engine = store_create(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  const attribute *graph =
      find_attribute(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  int64_t index = 0;
  if (engine == NULL || config == NULL)
    return;
  if (graph != NULL) {
    store_set(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph->type, graph->count,
              graph->values);
  }
  store_set(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &index);
  store_set(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
            &engine);
  store_release(engine);
}

static int answer(const stored_descriptor *descriptor, int name, int64_t wanted,
                  int64_t *count, void *values)
{
  int asked = values != NULL && wanted > 0;
  *count = 1;
  switch (name) {
  case CUDNN_ATTR_ENGINEHEUR_RESULTS:
    if (asked)
      one_engine(descriptor, *(stored_descriptor **)values);
    return CUDNN_STATUS_SUCCESS;
  case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
  case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
    if (asked)
      *(int64_t *)values = 0;
    return CUDNN_STATUS_SUCCESS;
  case CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT:
    if (asked)
      *(int64_t *)values = 1;
    return CUDNN_STATUS_SUCCESS;
  default:
    *count = 0;
    return CUDNN_STATUS_SUCCESS;
  }
}

int store_get(stored_descriptor *descriptor, int name, int type, int64_t wanted,
              int64_t *count, void *values)
{
  (void)type;
  const attribute *kept = find_attribute(descriptor, name);
  if (kept == NULL)
    return answer(descriptor, name, wanted, count, values);
  *count = kept->count;
  if (values != NULL)
    read_attribute(kept, wanted, values);
  return CUDNN_STATUS_SUCCESS;
}
