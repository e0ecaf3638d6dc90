/* Address space that is taken in units and given out in parts: each request goes into the
 * lowest hole that is large enough. */
#ifndef MEMPLAN_SPACE_H
#define MEMPLAN_SPACE_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

typedef struct {
  uintptr_t start;
  size_t bytes;
} vd_span;

/* Spans in the order of their addresses */
typedef struct {
  vd_span *at;
  size_t count, room;
} vd_spans;

typedef struct {
  vd_spans units; /* what was taken */
  vd_spans holes; /* the free parts of it */
} vd_space;

static inline uintptr_t vd_span_end(vd_span span)
{
  return span.start + span.bytes;
}

void vd_add_span(vd_spans *list, uintptr_t start, size_t bytes);
void vd_remove_span(vd_spans *list, size_t i);

uintptr_t vd_take_hole(vd_space *space, size_t bytes); /* 0: none is large enough */
/* A unit whose first bytes are in use. */
void vd_add_unit(vd_space *space, vd_span unit, size_t used_bytes);
/* Makes a hole. A unit that is one hole as a whole leaves the space, and is returned;
 * else no bytes are. */
vd_span vd_give_hole(vd_space *space, uintptr_t start, size_t bytes);

#pragma GCC visibility pop

#endif
