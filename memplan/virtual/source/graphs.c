/* Graphs: their nodes, and what of them is launched. Kernels and copies of a graph do
 * nothing when it is launched, like all others; its host functions are called. */
#include "streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- user objects: what a graph keeps alive ---- */

typedef struct vd_user_object {
  int references;
  cudaHostFn_t destroy;
  void *data;
} vd_user_object;

static void retain(cudaUserObject_t object, int count)
{
  __atomic_add_fetch(&object->references, count, __ATOMIC_ACQ_REL);
}

static void release(cudaUserObject_t object, int count)
{
  if (__atomic_sub_fetch(&object->references, count, __ATOMIC_ACQ_REL) > 0)
    return;
  object->destroy(object->data);
  free(object);
}

VD_EXPORT cudaError_t cudaUserObjectCreate(cudaUserObject_t *object, void *data,
                                           cudaHostFn_t destroy, unsigned references,
                                           unsigned flags)
{
  vd_user_object *new = malloc(sizeof *new);
  if (!new)
    return vd_result(cudaErrorMemoryAllocation);
  *new = (vd_user_object){(int)references, destroy, data};
  *object = new;
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned count)
{
  retain(object, (int)count);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count)
{
  release(object, (int)count);
  return cudaSuccess;
}

/* ---- lists of nodes ---- */

void vd_set_nodes(vd_nodes *nodes, vd_graph_node *const *at, size_t count)
{
  nodes->count = 0;
  vd_append_nodes(nodes, at, count);
}

void vd_append_nodes(vd_nodes *nodes, vd_graph_node *const *at, size_t count)
{
  if (!count)
    return;
  nodes->at = realloc(nodes->at, (nodes->count + count) * sizeof *at);
  memcpy(nodes->at + nodes->count, at, count * sizeof *at);
  nodes->count += count;
}

/* Copies as many as there is room for, if any is given; says how many there are. */
static void list_nodes(vd_nodes nodes, cudaGraphNode_t *out, size_t *count)
{
  if (!out || *count > nodes.count)
    *count = nodes.count;
  for (size_t i = 0; out && i < *count; i++)
    out[i] = nodes.at[i];
}

/* ---- graphs ---- */

vd_graph *vd_new_graph(void)
{
  return calloc(1, sizeof(vd_graph));
}

vd_graph_node *vd_add_node(vd_graph *graph, int kind, vd_nodes depends)
{
  vd_graph_node *node = calloc(1, sizeof *node);
  if (!node)
    return NULL;
  node->kind = kind;
  vd_set_nodes(&node->depends, depends.at, depends.count);
  vd_append_nodes(&graph->nodes, &node, 1);
  return node;
}

static void free_node(vd_graph_node *node)
{
  for (size_t i = 0; i < node->num_bodies; i++)
    vd_free_graph(node->bodies[i]);
  free(node->bodies);
  free(node->depends.at);
  free(node);
}

void vd_free_graph(vd_graph *graph)
{
  for (size_t i = 0; i < graph->nodes.count; i++)
    free_node(graph->nodes.at[i]);
  for (size_t i = 0; i < graph->num_objects; i++)
    release(graph->objects[i], 1);
  free(graph->nodes.at);
  free(graph->objects);
  free(graph);
}

static void hold(vd_graph *graph, cudaUserObject_t object)
{
  size_t bytes = (graph->num_objects + 1) * sizeof object;
  graph->objects = realloc(graph->objects, bytes);
  graph->objects[graph->num_objects++] = object;
}

VD_EXPORT cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned flags)
{
  *graph = vd_new_graph();
  return vd_result(*graph ? cudaSuccess : cudaErrorMemoryAllocation);
}

VD_EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
  if (!graph)
    return vd_result(cudaErrorInvalidValue);
  vd_free_graph(graph);
  return cudaSuccess;
}

enum { cudaGraphUserObjectMove = 1 };

VD_EXPORT cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object,
                                                unsigned count, unsigned flags)
{
  if (!(flags & cudaGraphUserObjectMove))
    retain(object, (int)count);
  for (unsigned i = 0; i < count; i++)
    hold(graph, object);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes,
                                        size_t *count)
{
  list_nodes(graph->nodes, nodes, count);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, int *type)
{
  *type = node->kind;
  return cudaSuccess;
}

static cudaError_t list_dependencies(cudaGraphNode_t node, cudaGraphNode_t *depends,
                                     size_t *count)
{
  list_nodes(node->depends, depends, count);
  return cudaSuccess;
}

#if VD_CUDA >= 13
VD_EXPORT cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node,
                                                   cudaGraphNode_t *depends, void *edges,
                                                   size_t *count)
{
  return list_dependencies(node, depends, count);
}
#else
VD_EXPORT cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node,
                                                   cudaGraphNode_t *depends,
                                                   size_t *count)
{
  return list_dependencies(node, depends, count);
}

VD_EXPORT cudaError_t cudaGraphNodeGetDependencies_v2(cudaGraphNode_t node,
                                                      cudaGraphNode_t *depends,
                                                      void *edges, size_t *count)
{
  return list_dependencies(node, depends, count);
}
#endif

/* ---- adding nodes by hand ---- */

/* The head of cudaGraphNodeParams, and what it holds for a conditional node */
typedef struct {
  int type;
  int reserved[3];
  struct {
    unsigned long long handle;
    int type;
    unsigned size;
    cudaGraph_t *phGraph_out;
  } conditional;
} node_params;

VD_EXPORT cudaError_t cudaGraphConditionalHandleCreate(unsigned long long *handle,
                                                       cudaGraph_t graph, unsigned value,
                                                       unsigned flags)
{
  *handle = vd_new_id();
  return cudaSuccess;
}

/* The branches of a conditional node are captured into graphs that it owns. */
static cudaError_t add_bodies(vd_graph_node *node, node_params *params)
{
  size_t count = params->conditional.size;
  node->bodies = calloc(count, sizeof *node->bodies);
  if (!node->bodies)
    return cudaErrorMemoryAllocation;
  while (node->num_bodies < count) {
    vd_graph *body = vd_new_graph();
    if (!body)
      return cudaErrorMemoryAllocation;
    node->bodies[node->num_bodies++] = body;
  }
  params->conditional.phGraph_out = node->bodies;
  return cudaSuccess;
}

static cudaError_t add_node(cudaGraphNode_t *node, cudaGraph_t graph,
                            const cudaGraphNode_t *depends, size_t num_depends,
                            node_params *params)
{
  vd_nodes depends_on = {(vd_graph_node **)depends, num_depends};
  *node = vd_add_node(graph, params->type, depends_on);
  if (!*node)
    return cudaErrorMemoryAllocation;
  return params->type == VD_CONDITIONAL_NODE ? add_bodies(*node, params) : cudaSuccess;
}

#if VD_CUDA >= 13
VD_EXPORT cudaError_t cudaGraphAddNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                       const cudaGraphNode_t *depends, const void *edges,
                                       size_t num_depends, node_params *params)
{
  return vd_result(add_node(node, graph, depends, num_depends, params));
}
#else
VD_EXPORT cudaError_t cudaGraphAddNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                       const cudaGraphNode_t *depends, size_t num_depends,
                                       node_params *params)
{
  return vd_result(add_node(node, graph, depends, num_depends, params));
}

VD_EXPORT cudaError_t cudaGraphAddNode_v2(cudaGraphNode_t *node, cudaGraph_t graph,
                                          const cudaGraphNode_t *depends,
                                          const void *edges, size_t num_depends,
                                          node_params *params)
{
  return vd_result(add_node(node, graph, depends, num_depends, params));
}
#endif

VD_EXPORT cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t *node, cudaGraph_t graph,
                                            const cudaGraphNode_t *depends,
                                            size_t num_depends)
{
  node_params params = {.type = VD_EMPTY_NODE};
  return vd_result(add_node(node, graph, depends, num_depends, &params));
}

/* ---- launching ---- */

/* What is left of a graph that was made ready to launch: what it calls */
struct vd_graph_exec {
  vd_graph *calls;
};

/* The host nodes of a graph, and what it keeps alive; NULL: no memory */
static vd_graph *copy_calls(const vd_graph *graph)
{
  vd_graph *calls = vd_new_graph();
  if (!calls)
    return NULL;
  for (size_t i = 0; i < graph->nodes.count; i++) {
    vd_graph_node *node = graph->nodes.at[i];
    if (node->kind != VD_HOST_NODE)
      continue;
    vd_graph_node *call = vd_add_node(calls, VD_HOST_NODE, (vd_nodes){NULL, 0});
    if (!call)
      break;
    call->function = node->function;
    call->data = node->data;
  }
  for (size_t i = 0; i < graph->num_objects; i++) {
    retain(graph->objects[i], 1);
    hold(calls, graph->objects[i]);
  }
  return calls;
}

static cudaError_t instantiate(cudaGraphExec_t *exec, cudaGraph_t graph)
{
  if (!graph)
    return cudaErrorInvalidValue;
  *exec = malloc(sizeof **exec);
  if (!*exec)
    return cudaErrorMemoryAllocation;
  (*exec)->calls = copy_calls(graph);
  return (*exec)->calls ? cudaSuccess : cudaErrorMemoryAllocation;
}

VD_EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                           unsigned long long flags)
{
  return vd_result(instantiate(exec, graph));
}

VD_EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec,
                                                    cudaGraph_t graph,
                                                    unsigned long long flags)
{
  return vd_result(instantiate(exec, graph));
}

VD_EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
  if (!exec)
    return vd_result(cudaErrorInvalidValue);
  vd_free_graph(exec->calls);
  free(exec);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
  return vd_result(exec ? cudaSuccess : cudaErrorInvalidValue);
}

VD_EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
  if (!exec)
    return vd_result(cudaErrorInvalidValue);
  vd_nodes calls = exec->calls->nodes;
  for (size_t i = 0; i < calls.count; i++)
    if (calls.at[i]->function)
      calls.at[i]->function(calls.at[i]->data);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char *path,
                                             unsigned flags)
{
  FILE *file = fopen(path, "w");
  if (!file)
    return vd_result(cudaErrorInvalidValue);
  fputs("digraph dot {\n", file);
  for (size_t i = 0; i < graph->nodes.count; i++) {
    vd_graph_node *node = graph->nodes.at[i];
    fprintf(file, "\"%p\" [label=\"kind %d\"];\n", (void *)node, node->kind);
    for (size_t k = 0; k < node->depends.count; k++)
      fprintf(file, "\"%p\" -> \"%p\";\n", (void *)node->depends.at[k], (void *)node);
  }
  fputs("}\n", file);
  fclose(file);
  return cudaSuccess;
}
