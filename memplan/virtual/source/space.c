/* Address space that is taken in units and given out in parts (see space.h). */
#include "space.h"

#include <stdlib.h>
#include <string.h>

void vd_add_span(vd_spans *list, uintptr_t start, size_t bytes)
{
  if (list->count == list->room) {
    list->room = list->room ? 2 * list->room : 64;
    list->at = realloc(list->at, list->room * sizeof *list->at);
  }
  size_t i = list->count;
  while (i > 0 && list->at[i - 1].start > start)
    i--;
  memmove(list->at + i + 1, list->at + i, (list->count - i) * sizeof *list->at);
  list->at[i] = (vd_span){start, bytes};
  list->count++;
}

void vd_remove_span(vd_spans *list, size_t i)
{
  memmove(list->at + i, list->at + i + 1, (list->count - i - 1) * sizeof *list->at);
  list->count--;
}

uintptr_t vd_take_hole(vd_space *space, size_t bytes)
{
  for (size_t i = 0; i < space->holes.count; i++) {
    vd_span *hole = &space->holes.at[i];
    if (hole->bytes < bytes)
      continue;
    uintptr_t start = hole->start;
    hole->start += bytes;
    hole->bytes -= bytes;
    if (!hole->bytes)
      vd_remove_span(&space->holes, i);
    return start;
  }
  return 0;
}

void vd_add_unit(vd_space *space, vd_span unit, size_t used_bytes)
{
  vd_add_span(&space->units, unit.start, unit.bytes);
  if (unit.bytes > used_bytes)
    vd_add_span(&space->holes, unit.start + used_bytes, unit.bytes - used_bytes);
}

static size_t unit_around(const vd_space *space, uintptr_t address)
{
  size_t i = 0;
  while (vd_span_end(space->units.at[i]) <= address)
    i++;
  return i;
}

/* The hole and the holes of the same unit on either side of it, as one */
static vd_span merge_holes(vd_space *space, vd_span unit, vd_span hole)
{
  vd_spans *holes = &space->holes;
  for (size_t i = 0; i < holes->count;) {
    vd_span other = holes->at[i];
    int same_unit = other.start >= unit.start && other.start < vd_span_end(unit);
    if (same_unit && vd_span_end(other) == hole.start) {
      hole = (vd_span){other.start, other.bytes + hole.bytes};
      vd_remove_span(holes, i);
    } else if (same_unit && vd_span_end(hole) == other.start) {
      hole.bytes += other.bytes;
      vd_remove_span(holes, i);
    } else {
      i++;
    }
  }
  return hole;
}

vd_span vd_give_hole(vd_space *space, uintptr_t start, size_t bytes)
{
  size_t i = unit_around(space, start);
  vd_span unit = space->units.at[i];
  vd_span hole = merge_holes(space, unit, (vd_span){start, bytes});
  if (hole.bytes == unit.bytes) {
    vd_remove_span(&space->units, i);
    return unit;
  }
  vd_add_span(&space->holes, hole.start, hole.bytes);
  return (vd_span){0, 0};
}
