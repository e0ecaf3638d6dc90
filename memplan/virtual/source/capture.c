/* Capturing streams into graphs. PyTorch's allocator asks whether a stream is captured,
 * and by which capture, at every allocation; a stream that waits for an event of a
 * captured stream takes part in the capture until it ends. */
#include "streams.h"

#include <pthread.h>
#include <stdlib.h>

enum { NOT_CAPTURED = 0, CAPTURED = 1, INVALIDATED = 2 }; /* cudaStreamCaptureStatus */
enum { ADD_DEPENDENCIES = 0, SET_DEPENDENCIES = 1 };

/* A capture in progress. Streams and events hold its id, so that nothing points to one
 * that has ended. */
typedef struct capture {
  struct capture *next;
  unsigned long long id;
  const vd_stream *origin;
  vd_graph *graph;
  int owns_graph;
  int invalidated;
} capture;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static capture *captures;

static capture *capture_with(unsigned long long id)
{
  capture *c = id ? captures : NULL;
  while (c && c->id != id)
    c = c->next;
  return c;
}

/* With the lock held. NULL: the stream is not captured, or its capture has ended */
static capture *capture_of(vd_stream *stream)
{
  if (!stream || !stream->capture)
    return NULL;
  capture *c = capture_with(stream->capture);
  if (!c)
    stream->capture = 0;
  return c;
}

static int may_be_captured(const vd_stream *stream)
{
  return stream && __atomic_load_n(&stream->capture, __ATOMIC_RELAXED);
}

/* ---- what streams do meanwhile ---- */

vd_graph_node *vd_capture_node(cudaStream_t stream, int kind)
{
  vd_stream *captured = vd_stream_of(stream);
  if (!may_be_captured(captured))
    return NULL;
  pthread_mutex_lock(&lock);
  capture *c = capture_of(captured);
  vd_graph_node *node = c ? vd_add_node(c->graph, kind, captured->last) : NULL;
  if (node)
    vd_set_nodes(&captured->last, &node, 1);
  pthread_mutex_unlock(&lock);
  return node;
}

void vd_compute_on(void *stream)
{
  vd_capture_node(stream, VD_KERNEL_NODE);
}

void vd_capture_record(cudaStream_t stream, vd_event *event)
{
  vd_stream *recorded = vd_stream_of(stream);
  if (!may_be_captured(recorded) && !event->capture)
    return;
  pthread_mutex_lock(&lock);
  capture *c = capture_of(recorded);
  event->capture = c ? c->id : 0;
  vd_set_nodes(&event->last, c ? recorded->last.at : NULL, c ? recorded->last.count : 0);
  pthread_mutex_unlock(&lock);
}

cudaError_t vd_capture_wait(cudaStream_t stream, const vd_event *event)
{
  vd_stream *waiting = vd_stream_of(stream);
  if (!event->capture || !waiting)
    return cudaSuccess;
  cudaError_t error = cudaSuccess;
  pthread_mutex_lock(&lock);
  capture *theirs = capture_with(event->capture);
  capture *ours = capture_of(waiting);
  if (theirs && ours && theirs != ours) {
    error = cudaErrorStreamCaptureMerge;
  } else if (theirs) {
    if (!ours)
      vd_set_nodes(&waiting->last, NULL, 0);
    __atomic_store_n(&waiting->capture, theirs->id, __ATOMIC_RELAXED);
    vd_append_nodes(&waiting->last, event->last.at, event->last.count);
  }
  pthread_mutex_unlock(&lock);
  return error;
}

cudaError_t vd_capture_synchronize(cudaStream_t stream)
{
  vd_stream *waited_for = vd_stream_of(stream);
  if (!may_be_captured(waited_for))
    return cudaSuccess;
  pthread_mutex_lock(&lock);
  capture *c = capture_of(waited_for);
  if (c)
    c->invalidated = 1;
  pthread_mutex_unlock(&lock);
  return c ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

/* ---- beginning and ending ---- */

/* Into a graph of its own where none is given */
static cudaError_t begin(cudaStream_t stream, vd_graph *graph,
                         vd_graph_node *const *depends, size_t num_depends)
{
  vd_stream *origin = vd_stream_of(stream);
  capture *new = calloc(1, sizeof *new);
  cudaError_t error = cudaErrorStreamCaptureUnsupported;
  if (!new)
    return cudaErrorMemoryAllocation;
  pthread_mutex_lock(&lock);
  if (origin && !capture_of(origin)) {
    new->id = vd_new_id();
    new->origin = origin;
    new->owns_graph = !graph;
    new->graph = graph ? graph : vd_new_graph();
    new->next = captures;
    captures = new;
    vd_set_nodes(&origin->last, depends, num_depends);
    __atomic_store_n(&origin->capture, new->id, __ATOMIC_RELAXED);
    error = cudaSuccess;
  }
  pthread_mutex_unlock(&lock);
  if (error)
    free(new);
  return error;
}

VD_EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int mode)
{
  return vd_result(begin(stream, NULL, NULL, 0));
}

VD_EXPORT cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream,
                                                    cudaGraph_t graph,
                                                    const cudaGraphNode_t *depends,
                                                    const void *edges,
                                                    size_t num_depends, int mode)
{
  if (!graph)
    return vd_result(cudaErrorInvalidValue);
  return vd_result(begin(stream, graph, depends, num_depends));
}

static void unlink_capture(capture *ended)
{
  capture **link = &captures;
  while (*link != ended)
    link = &(*link)->next;
  *link = ended->next;
}

static cudaError_t end(vd_stream *stream, cudaGraph_t *graph)
{
  capture *c = capture_of(stream);
  if (!c)
    return cudaErrorStreamCaptureUnmatched;
  if (c->origin != stream) {
    c->invalidated = 1;
    return cudaErrorStreamCaptureUnmatched;
  }
  unlink_capture(c);
  stream->capture = 0;
  *graph = c->invalidated ? NULL : c->graph;
  if (c->invalidated && c->owns_graph)
    vd_free_graph(c->graph);
  cudaError_t error = c->invalidated ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
  free(c);
  return error;
}

VD_EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
  cudaGraph_t captured = NULL;
  pthread_mutex_lock(&lock);
  cudaError_t error = end(vd_stream_of(stream), &captured);
  pthread_mutex_unlock(&lock);
  if (graph)
    *graph = captured;
  return vd_result(error);
}

/* ---- asking ---- */

VD_EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, int *status)
{
  vd_stream *asked = vd_stream_of(stream);
  *status = NOT_CAPTURED;
  if (!may_be_captured(asked))
    return cudaSuccess;
  pthread_mutex_lock(&lock);
  capture *c = capture_of(asked);
  if (c)
    *status = c->invalidated ? INVALIDATED : CAPTURED;
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

/* What is not wanted is NULL. */
static cudaError_t capture_info(cudaStream_t stream, int *status, unsigned long long *id,
                                cudaGraph_t *graph, const cudaGraphNode_t **depends,
                                size_t *num_depends)
{
  vd_stream *asked = vd_stream_of(stream);
  pthread_mutex_lock(&lock);
  capture *c = capture_of(asked);
  *status = !c ? NOT_CAPTURED : c->invalidated ? INVALIDATED : CAPTURED;
  if (id)
    *id = c ? c->id : 0;
  if (graph)
    *graph = c ? c->graph : NULL;
  if (depends)
    *depends = c ? asked->last.at : NULL;
  if (num_depends)
    *num_depends = c ? asked->last.count : 0;
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

/* From CUDA 13 on with the data of edges, which are all plain dependencies: none. */
static cudaError_t capture_info_with_edges(cudaStream_t stream, int *status,
                                           unsigned long long *id, cudaGraph_t *graph,
                                           const cudaGraphNode_t **depends,
                                           const void **edges, size_t *num_depends)
{
  if (edges)
    *edges = NULL;
  return capture_info(stream, status, id, graph, depends, num_depends);
}

static cudaError_t update_dependencies(cudaStream_t stream, cudaGraphNode_t *depends,
                                       size_t num_depends, unsigned flags)
{
  vd_stream *captured = vd_stream_of(stream);
  pthread_mutex_lock(&lock);
  capture *c = capture_of(captured);
  if (c && flags == SET_DEPENDENCIES)
    vd_set_nodes(&captured->last, depends, num_depends);
  else if (c)
    vd_append_nodes(&captured->last, depends, num_depends);
  pthread_mutex_unlock(&lock);
  return c ? cudaSuccess : cudaErrorInvalidValue;
}

#if VD_CUDA >= 13

VD_EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, int *status,
                                               unsigned long long *id, cudaGraph_t *graph,
                                               const cudaGraphNode_t **depends,
                                               const void **edges, size_t *num_depends)
{
  return capture_info_with_edges(stream, status, id, graph, depends, edges, num_depends);
}

VD_EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream,
                                                          cudaGraphNode_t *depends,
                                                          const void *edges,
                                                          size_t num_depends,
                                                          unsigned flags)
{
  return vd_result(update_dependencies(stream, depends, num_depends, flags));
}

#else

VD_EXPORT cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, int *status,
                                                  unsigned long long *id,
                                                  cudaGraph_t *graph,
                                                  const cudaGraphNode_t **depends,
                                                  size_t *num_depends)
{
  return capture_info(stream, status, id, graph, depends, num_depends);
}

VD_EXPORT cudaError_t cudaStreamGetCaptureInfo_v3(cudaStream_t stream, int *status,
                                                  unsigned long long *id,
                                                  cudaGraph_t *graph,
                                                  const cudaGraphNode_t **depends,
                                                  const void **edges, size_t *num_depends)
{
  return capture_info_with_edges(stream, status, id, graph, depends, edges, num_depends);
}

VD_EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream,
                                                          cudaGraphNode_t *depends,
                                                          size_t num_depends,
                                                          unsigned flags)
{
  return vd_result(update_dependencies(stream, depends, num_depends, flags));
}

VD_EXPORT cudaError_t cudaStreamUpdateCaptureDependencies_v2(cudaStream_t stream,
                                                             cudaGraphNode_t *depends,
                                                             const void *edges,
                                                             size_t num_depends,
                                                             unsigned flags)
{
  return vd_result(update_dependencies(stream, depends, num_depends, flags));
}

#endif

VD_EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(int *mode)
{
  static __thread int current; /* cudaStreamCaptureModeGlobal */
  int previous = current;
  current = *mode;
  *mode = previous;
  return cudaSuccess;
}
