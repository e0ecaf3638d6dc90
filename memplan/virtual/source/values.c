/* What device memory holds. Kernels do nothing here, so the only bytes that mean anything
 * are those that the host wrote: they are kept beside the memory, in pieces ordered by
 * address, come back when the host reads them and travel with copies from device to
 * device. Everything else reads as zero.
 *
 * A copy of more than `copy_limit` bytes is not kept, and all pieces together hold at most
 * KEPT_BYTES: the oldest are dropped first. */
#define _GNU_SOURCE
#include "core.h"
#include "ordered.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEPT_BYTES ((size_t)512 << 20)
#define CLEARED_BYTES ((size_t)64 << 20) /* of a read into memory that is not ours */
#define DISCARDED_FROM ((size_t)64 << 10)

/* Bytes that the host wrote: one after another in the order of their addresses, never
 * overlapping, and in a second order by age. */
typedef struct piece {
  vd_node node; /* its key is the start */
  struct piece *older, *newer;
  size_t bytes;
  unsigned char data[];
} piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vd_node *pieces;
static piece *oldest, *newest;
static size_t kept_bytes;

static uintptr_t start_of(const piece *p)
{
  return p->node.key;
}

static uintptr_t end_of(const piece *p)
{
  return p->node.key + p->bytes;
}

/* ---- one piece ---- */

static void append_by_age(piece *p)
{
  p->older = newest;
  p->newer = NULL;
  *(newest ? &newest->newer : &oldest) = p;
  newest = p;
}

static void unlink_by_age(piece *p)
{
  *(p->older ? &p->older->newer : &oldest) = p->newer;
  *(p->newer ? &p->newer->older : &newest) = p->older;
}

/* Without data its bytes are still to be written. NULL where the host has no memory left:
 * what would have been kept then reads as zero. */
static piece *new_piece(uintptr_t start, const void *data, size_t bytes)
{
  piece *p = malloc(sizeof *p + bytes);
  if (!p)
    return NULL;
  p->node.key = start;
  p->bytes = bytes;
  if (data)
    memcpy(p->data, data, bytes);
  return p;
}

static void add_piece(piece *p)
{
  if (!p)
    return;
  vd_insert(&pieces, &p->node);
  append_by_age(p);
  kept_bytes += sizeof *p + p->bytes;
}

static void free_piece(piece *p)
{
  unlink_by_age(p);
  kept_bytes -= sizeof *p + p->bytes;
  free(p);
}

static void free_pieces(vd_node *tree)
{
  if (!tree)
    return;
  free_pieces(tree->left);
  free_pieces(tree->right);
  free_piece((piece *)tree);
}

static void drop_oldest(void)
{
  while (kept_bytes > KEPT_BYTES && oldest) {
    piece *p = oldest;
    vd_remove(&pieces, start_of(p));
    free_piece(p);
  }
}

/* ---- ranges of addresses ---- */

/* Makes two pieces of one that reaches across this address. */
static void cut_at(uintptr_t address)
{
  piece *p = (piece *)vd_at_or_below(pieces, address);
  if (!p || start_of(p) == address || end_of(p) <= address)
    return;
  size_t head = address - start_of(p);
  vd_remove(&pieces, start_of(p));
  add_piece(new_piece(start_of(p), p->data, head));
  add_piece(new_piece(address, p->data + head, p->bytes - head));
  free_piece(p);
}

static void erase(uintptr_t start, size_t bytes)
{
  vd_node *below, *inside, *above;
  cut_at(start);
  cut_at(start + bytes);
  vd_split(pieces, start, &below, &inside);
  vd_split(inside, start + bytes, &inside, &above);
  free_pieces(inside);
  pieces = vd_join(below, above);
}

/* The piece that holds all of the range; NULL: none does */
static piece *piece_around(uintptr_t start, size_t bytes)
{
  piece *p = (piece *)vd_at_or_below(pieces, start);
  return p && start + bytes <= end_of(p) ? p : NULL;
}

static void keep(uintptr_t start, const void *data, size_t bytes)
{
  piece *p = piece_around(start, bytes);
  if (p) { /* written in place: part of a tensor, or the same one once more */
    memcpy(p->data + (start - start_of(p)), data, bytes);
    unlink_by_age(p);
    append_by_age(p);
    return;
  }
  erase(start, bytes);
  add_piece(new_piece(start, data, bytes));
  drop_oldest();
}

/* The first piece that reaches into the range, and those after it */
static piece *first_piece(uintptr_t start, size_t bytes)
{
  piece *p = (piece *)vd_at_or_below(pieces, start);
  if (!p || end_of(p) <= start)
    p = (piece *)vd_at_or_above(pieces, start);
  return p && start_of(p) < start + bytes ? p : NULL;
}

static piece *next_piece(const piece *p, uintptr_t end)
{
  piece *next = (piece *)vd_at_or_above(pieces, end_of(p));
  return next && start_of(next) < end ? next : NULL;
}

/* The part of a piece that lies in a range */
typedef struct {
  uintptr_t start;
  size_t bytes;
  const unsigned char *data;
} part;

static part part_in(const piece *p, uintptr_t start, size_t bytes)
{
  uintptr_t from = start_of(p) > start ? start_of(p) : start;
  uintptr_t to = end_of(p) < start + bytes ? end_of(p) : start + bytes;
  return (part){from, to - from, p->data + (from - start_of(p))};
}

/* ---- host memory ---- */

/* Whole pages are given back rather than written, so that they cost nothing. */
static void discard(char *start, size_t bytes)
{
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  char *first = (char *)(((uintptr_t)start + page - 1) / page * page);
  char *last = (char *)(((uintptr_t)start + bytes) / page * page);
  memset(start, 0, (size_t)(first - start));
  madvise(first, (size_t)(last - first), MADV_DONTNEED);
  memset(last, 0, (size_t)(start + bytes - last));
}

/* Zeros for the host. Large reads into memory that others own leave it as it is: to write
 * it would cost a rehearsal of offloading all the memory that it offloads to. */
static void clear_host(void *start, size_t bytes)
{
  if (bytes >= DISCARDED_FROM && vd_is_mapped_here(start, bytes))
    discard(start, bytes);
  else if (bytes <= CLEARED_BYTES)
    memset(start, 0, bytes);
}

/* ---- copies ---- */

static void host_to_device(uintptr_t to, const void *from, size_t bytes)
{
  pthread_mutex_lock(&lock);
  if (bytes <= vd_the_card()->copy_limit)
    keep(to, from, bytes);
  else
    erase(to, bytes);
  pthread_mutex_unlock(&lock);
}

static void device_to_host(unsigned char *to, uintptr_t from, size_t bytes)
{
  pthread_mutex_lock(&lock);
  piece *whole = piece_around(from, bytes);
  if (whole) {
    memcpy(to, whole->data + (from - start_of(whole)), bytes);
  } else {
    clear_host(to, bytes);
    for (piece *p = first_piece(from, bytes); p; p = next_piece(p, from + bytes)) {
      part found = part_in(p, from, bytes);
      memcpy(to + (found.start - from), found.data, found.bytes);
    }
  }
  pthread_mutex_unlock(&lock);
}

/* What the source holds is gathered before the target is erased: they may overlap. */
static void device_to_device(uintptr_t to, uintptr_t from, size_t bytes)
{
  piece *carried = NULL;
  pthread_mutex_lock(&lock);
  for (piece *p = first_piece(from, bytes); p; p = next_piece(p, from + bytes)) {
    part found = part_in(p, from, bytes);
    piece *copy = new_piece(to + (found.start - from), found.data, found.bytes);
    if (copy) {
      copy->newer = carried;
      carried = copy;
    }
  }
  erase(to, bytes);
  while (carried) {
    piece *next = carried->newer;
    add_piece(carried);
    carried = next;
  }
  drop_oldest();
  pthread_mutex_unlock(&lock);
}

void vd_copy(void *to, const void *from, size_t bytes)
{
  if (!bytes || to == from)
    return;
  int to_device = vd_is_device_address(to);
  int from_device = vd_is_device_address(from);
  if (to_device && from_device)
    device_to_device((uintptr_t)to, (uintptr_t)from, bytes);
  else if (to_device)
    host_to_device((uintptr_t)to, from, bytes);
  else if (from_device)
    device_to_host(to, (uintptr_t)from, bytes);
  else
    memmove(to, from, bytes);
}

static void fill_device(uintptr_t start, int byte, size_t bytes)
{
  pthread_mutex_lock(&lock);
  piece *p = piece_around(start, bytes);
  if (!p && byte && bytes <= vd_the_card()->copy_limit) {
    erase(start, bytes);
    p = new_piece(start, NULL, bytes);
    add_piece(p);
  }
  if (p)
    memset(p->data + (start - start_of(p)), byte, bytes);
  else
    erase(start, bytes);
  drop_oldest();
  pthread_mutex_unlock(&lock);
}

void vd_fill(void *to, int byte, size_t bytes)
{
  if (!bytes)
    return;
  if (vd_is_device_address(to))
    fill_device((uintptr_t)to, byte & 0xff, bytes);
  else if (byte & 0xff)
    memset(to, byte, bytes);
  else
    clear_host(to, bytes);
}

/* ---- blocks of PyTorch's allocator ----
 *
 * A block that is handed out anew holds what its last user left, which on a card is
 * garbage and here must not look like a value. Its size is not told, but the blocks that
 * are out do not overlap: from its start to the next of them, nobody's values lie. */

static vd_node *blocks; /* the starts of the blocks that are out */

static void forget_from(uintptr_t start)
{
  vd_node *next = vd_at_or_above(blocks, start + 1);
  piece *p = first_piece(start, (next ? next->key : UINTPTR_MAX) - start);
  if (!p)
    return;
  uintptr_t end = vd_end_of_segment(start, next ? next->key : UINTPTR_MAX);
  if (end > start)
    erase(start, end - start);
}

static void add_block(uintptr_t start)
{
  vd_node *block = calloc(1, sizeof *block);
  if (!block)
    return;
  block->key = start;
  vd_insert(&blocks, block);
}

void vd_forget(const void *start)
{
  pthread_mutex_lock(&lock);
  free(vd_remove(&blocks, (uintptr_t)start));
  add_block((uintptr_t)start);
  forget_from((uintptr_t)start);
  pthread_mutex_unlock(&lock);
}

void vd_forget_freed(const void *start)
{
  pthread_mutex_lock(&lock);
  free(vd_remove(&blocks, (uintptr_t)start));
  forget_from((uintptr_t)start);
  pthread_mutex_unlock(&lock);
}

void vd_forget_segment(uintptr_t start, size_t bytes)
{
  pthread_mutex_lock(&lock);
  erase(start, bytes);
  vd_node *block;
  while ((block = vd_at_or_above(blocks, start)) && block->key < start + bytes)
    free(vd_remove(&blocks, block->key));
  pthread_mutex_unlock(&lock);
}
