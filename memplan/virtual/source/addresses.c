/* Where segments of device memory lie.
 *
 * PyTorch's caching allocator breaks ties between free blocks of one size by their
 * addresses, so what it reserves depends on where cudaMalloc puts things. Recorded traces
 * of the Linux driver (an ~80 GB card, 783 segments, 774 of them predicted) show: address
 * space is taken in units of 32 MiB, each new one below the last, and a request goes into
 * the lowest hole of the units already taken that is large enough. Recordings made under
 * WSL2 rise instead ("addresses=up").
 *
 * Device memory is address space alone: it is never read or written. Each unit is mapped
 * without any access, so that nothing else comes to lie there and a program that touches
 * device memory from the host faults, as on a card. The addresses are the same in every
 * run, in a region where the kernel maps nothing by itself. */
#define _GNU_SOURCE
#include "core.h"
#include "space.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define UNIT ((size_t)32 << 20)
#define TIB ((uintptr_t)1 << 40)
#define WINDOW (2 * TIB) /* of one device */
#define WINDOWS_START (32 * TIB)
#define RESERVED_START (WINDOWS_START + VD_MAX_DEVICES * WINDOW)
#define RESERVED_END (RESERVED_START + 20 * TIB) /* programs start at 85 TiB */

#ifndef MAP_FIXED_NOREPLACE /* older C libraries; a kernel that does not know it ignores it */
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static vd_space windows[VD_MAX_DEVICES];

/* ---- guarding addresses ---- */

/* Takes these addresses and no others. 0: done */
static int guard(uintptr_t start, size_t bytes)
{
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void *got = mmap((void *)start, bytes, PROT_NONE, flags, -1, 0);
  if (got == (void *)start)
    return 0;
  if (got != MAP_FAILED)
    munmap(got, bytes);
  vd_log("%zu bytes of address space at %#zx are not to be had (%s); is there a limit on "
         "virtual memory (ulimit -v)?\n", bytes, start,
         got == MAP_FAILED ? strerror(errno) : "the kernel put them elsewhere");
  return -1;
}

static void unguard(uintptr_t start, size_t bytes)
{
  munmap((void *)start, bytes);
}

int vd_is_device_address(const void *pointer)
{
  return (uintptr_t)pointer >= WINDOWS_START && (uintptr_t)pointer < RESERVED_END;
}

/* ---- placing segments ---- */

/* The highest free place of a window; 0: none */
static uintptr_t place_below(const vd_spans *units, uintptr_t lowest, size_t bytes)
{
  uintptr_t top = lowest + WINDOW;
  for (size_t i = units->count; i-- > 0;) {
    if (top - vd_span_end(units->at[i]) >= bytes)
      break;
    top = units->at[i].start;
  }
  return top - lowest >= bytes ? top - bytes : 0;
}

/* The place after the last unit; 0: the window ends there */
static uintptr_t place_above(const vd_spans *units, uintptr_t lowest, size_t bytes)
{
  uintptr_t start = units->count ? vd_span_end(units->at[units->count - 1]) : lowest;
  return lowest + WINDOW - start >= bytes ? start : 0;
}

uintptr_t vd_place(int device, size_t bytes)
{
  vd_space *window = &windows[device];
  uintptr_t start = vd_take_hole(window, bytes);
  if (start)
    return start;
  uintptr_t lowest = WINDOWS_START + (uintptr_t)device * WINDOW;
  size_t unit = (bytes + UNIT - 1) / UNIT * UNIT;
  start = vd_the_card()->addresses_rise ? place_above(&window->units, lowest, unit)
                                        : place_below(&window->units, lowest, unit);
  if (!start || guard(start, unit))
    return 0;
  vd_add_unit(window, (vd_span){start, unit}, bytes);
  return start;
}

void vd_unplace(int device, uintptr_t start, size_t bytes)
{
  vd_span unit = vd_give_hole(&windows[device], start, bytes);
  if (unit.bytes)
    unguard(unit.start, unit.bytes);
}

/* ---- reserved addresses: expandable segments, memory of other processes ---- */

static pthread_mutex_t reserved_lock = PTHREAD_MUTEX_INITIALIZER;
static vd_spans reserved;

/* The lowest free place of this size and alignment; 0: none */
static uintptr_t place_reserved(size_t bytes, size_t alignment)
{
  uintptr_t start = RESERVED_START;
  for (size_t i = 0; i < reserved.count; i++) {
    start = (start + alignment - 1) / alignment * alignment;
    if (start + bytes <= reserved.at[i].start)
      return start;
    start = vd_span_end(reserved.at[i]);
  }
  start = (start + alignment - 1) / alignment * alignment;
  return start <= RESERVED_END && RESERVED_END - start >= bytes ? start : 0;
}

void *vd_reserve_addresses(size_t bytes, size_t alignment)
{
  if (alignment < VD_PAGE)
    alignment = VD_PAGE;
  bytes = (bytes + VD_PAGE - 1) / VD_PAGE * VD_PAGE;
  pthread_mutex_lock(&reserved_lock);
  uintptr_t start = place_reserved(bytes, alignment);
  if (start && !guard(start, bytes))
    vd_add_span(&reserved, start, bytes);
  else
    start = 0;
  pthread_mutex_unlock(&reserved_lock);
  return (void *)start;
}

int vd_free_addresses(void *start, size_t bytes)
{
  int result = -1;
  bytes = (bytes + VD_PAGE - 1) / VD_PAGE * VD_PAGE;
  pthread_mutex_lock(&reserved_lock);
  for (size_t i = 0; i < reserved.count; i++) {
    if (reserved.at[i].start != (uintptr_t)start || reserved.at[i].bytes != bytes)
      continue;
    unguard(reserved.at[i].start, bytes);
    vd_remove_span(&reserved, i);
    result = 0;
    break;
  }
  pthread_mutex_unlock(&reserved_lock);
  return result;
}
