/* Streams, events, and the graphs that they are captured into, as the sources of the CUDA
 * runtime library share them. */
#ifndef MEMPLAN_STREAMS_H
#define MEMPLAN_STREAMS_H

#include "runtime.h"

#pragma GCC visibility push(hidden)

/* ---- graphs ---- */

enum { /* cudaGraphNodeType */
  VD_KERNEL_NODE = 0,
  VD_COPY_NODE = 1,
  VD_FILL_NODE = 2,
  VD_HOST_NODE = 3,
  VD_EMPTY_NODE = 5,
  VD_CONDITIONAL_NODE = 13,
};

typedef struct vd_graph_node vd_graph_node;
typedef struct vd_graph vd_graph;

typedef struct {
  vd_graph_node **at;
  size_t count;
} vd_nodes;

struct vd_graph_node {
  int kind;
  vd_nodes depends;
  cudaHostFn_t function; /* of a host node */
  void *data;
  vd_graph **bodies; /* of a conditional node */
  size_t num_bodies;
};

struct vd_graph {
  vd_nodes nodes;
  struct vd_user_object **objects; /* that live as long as the graph */
  size_t num_objects;
};

void vd_set_nodes(vd_nodes *nodes, vd_graph_node *const *at, size_t count);
void vd_append_nodes(vd_nodes *nodes, vd_graph_node *const *at, size_t count);

vd_graph *vd_new_graph(void);
void vd_free_graph(vd_graph *graph);
vd_graph_node *vd_add_node(vd_graph *graph, int kind, vd_nodes depends);

/* ---- streams and events ---- */

typedef struct vd_stream {
  unsigned long long id;
  int priority;
  unsigned flags;
  int device;
  unsigned long long capture; /* the id of the capture that it takes part in, 0: none */
  vd_nodes last;              /* the nodes that its next one depends on */
} vd_stream;

typedef struct vd_event {
  unsigned flags;
  int recorded;
  unsigned long long capture; /* of the stream when it was recorded, and its nodes */
  vd_nodes last;
} vd_event;

/* NULL where the handle stands for a default stream. */
vd_stream *vd_stream_of(cudaStream_t stream);
unsigned long long vd_new_id(void);

/* ---- capture ---- */

/* Adds a node to the graph that the stream is being captured into. NULL: it is not */
vd_graph_node *vd_capture_node(cudaStream_t stream, int kind);
void vd_capture_record(cudaStream_t stream, vd_event *event);
cudaError_t vd_capture_wait(cudaStream_t stream, const vd_event *event);
/* The host may not wait for a stream that is being captured: it ends the capture. */
cudaError_t vd_capture_synchronize(cudaStream_t stream);

#pragma GCC visibility pop

#endif
