/* Device memory: how much of it is taken, and which addresses belong to whom.
 *
 * A card gives memory in pages of 2 MiB, and a first use of it costs the context. Device
 * memory has addresses and nothing behind them; pinned and managed memory is ordinary
 * host memory, and charged to nobody. */
#define _GNU_SOURCE
#include "core.h"
#include "ordered.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum owner {
  DESCRIBED, /* by vd_add_range: its memory is somebody else's affair */
  PROGRAM,   /* of vd_allocate */
  POOL,      /* of vd_allocate_unit: the program is given parts of it */
};

typedef struct {
  vd_node node; /* its key is the start */
  vd_range range;
  enum owner owner;
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vd_node *entries;
static struct {
  size_t used_bytes;
  int in_use;
} devices[VD_MAX_DEVICES];

static __thread int current_device;

int vd_current_device(void)
{
  return current_device;
}

void vd_set_current_device(int device)
{
  current_device = device;
}

/* ---- capacity ---- */

void vd_use_device(int device)
{
  if (__atomic_load_n(&devices[device].in_use, __ATOMIC_ACQUIRE))
    return;
  size_t context_bytes = vd_the_card()->context_bytes;
  pthread_mutex_lock(&lock);
  if (!devices[device].in_use) {
    devices[device].used_bytes += context_bytes;
    __atomic_store_n(&devices[device].in_use, 1, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&lock);
}

int vd_device_in_use(int device)
{
  return __atomic_load_n(&devices[device].in_use, __ATOMIC_ACQUIRE);
}

int vd_charge(int device, size_t bytes)
{
  vd_use_device(device);
  size_t total = vd_the_card()->total_bytes;
  pthread_mutex_lock(&lock);
  size_t used = devices[device].used_bytes;
  int fits = used <= total && bytes <= total - used;
  if (fits)
    devices[device].used_bytes += bytes;
  pthread_mutex_unlock(&lock);
  return fits ? 0 : -1;
}

void vd_discharge(int device, size_t bytes)
{
  pthread_mutex_lock(&lock);
  devices[device].used_bytes -= bytes;
  pthread_mutex_unlock(&lock);
}

size_t vd_used_bytes(int device)
{
  pthread_mutex_lock(&lock);
  size_t used = devices[device].used_bytes;
  pthread_mutex_unlock(&lock);
  return used;
}

/* ---- which addresses belong to whom ---- */

static entry *entry_around(const void *pointer)
{
  entry *found = (entry *)vd_at_or_below(entries, (uintptr_t)pointer);
  return found && (uintptr_t)pointer - found->range.start < found->range.bytes ? found : NULL;
}

static int add_entry(vd_range range, enum owner owner)
{
  entry *new = calloc(1, sizeof *new);
  if (!new)
    return -1;
  new->node.key = range.start;
  new->range = range;
  new->owner = owner;
  pthread_mutex_lock(&lock);
  int taken = entry_around((void *)range.start) != NULL;
  if (!taken)
    vd_insert(&entries, &new->node);
  pthread_mutex_unlock(&lock);
  if (taken)
    free(new);
  return taken ? -1 : 0;
}

/* The entry that starts here, taken out; NULL: this owner has none */
static entry *take_entry(const void *start, enum owner owner)
{
  pthread_mutex_lock(&lock);
  entry *found = entry_around(start);
  if (found && (found->range.start != (uintptr_t)start || found->owner != owner))
    found = NULL;
  if (found)
    vd_remove(&entries, found->node.key);
  pthread_mutex_unlock(&lock);
  return found;
}

int vd_find(const void *pointer, vd_range *found)
{
  pthread_mutex_lock(&lock);
  entry *holder = entry_around(pointer);
  if (holder)
    *found = holder->range;
  pthread_mutex_unlock(&lock);
  return holder != NULL;
}

int vd_add_range(void *start, size_t bytes, vd_kind kind, int device)
{
  return add_entry((vd_range){(uintptr_t)start, bytes, kind, device}, DESCRIBED);
}

int vd_drop_range(void *start)
{
  entry *dropped = take_entry(start, DESCRIBED);
  if (!dropped)
    return -1;
  if (dropped->range.kind == VD_DEVICE)
    vd_forget_segment(dropped->range.start, dropped->range.bytes);
  free(dropped);
  return 0;
}

/* A segment is what one cudaMalloc gave, or pages that were mapped side by side. */
uintptr_t vd_end_of_segment(uintptr_t start, uintptr_t limit)
{
  uintptr_t end = start;
  pthread_mutex_lock(&lock);
  while (end < limit) {
    entry *holder = entry_around((void *)end);
    if (!holder || (end > start && holder->owner != DESCRIBED))
      break;
    end = holder->range.start + holder->range.bytes;
    if (holder->owner != DESCRIBED)
      break;
  }
  pthread_mutex_unlock(&lock);
  return end < limit ? end : limit;
}

int vd_is_mapped_here(const void *start, size_t bytes)
{
  pthread_mutex_lock(&lock);
  entry *holder = entry_around(start);
  int ours = holder && holder->owner != DESCRIBED && holder->range.kind != VD_DEVICE &&
             bytes <= holder->range.bytes - ((uintptr_t)start - holder->range.start);
  pthread_mutex_unlock(&lock);
  return ours;
}

/* ---- allocating ---- */

static uintptr_t take_device_memory(int device, size_t bytes)
{
  if (vd_charge(device, bytes))
    return 0;
  pthread_mutex_lock(&lock);
  uintptr_t start = vd_place(device, bytes);
  pthread_mutex_unlock(&lock);
  if (!start)
    vd_discharge(device, bytes);
  return start;
}

static void give_device_memory(int device, uintptr_t start, size_t bytes)
{
  vd_forget_segment(start, bytes);
  pthread_mutex_lock(&lock);
  vd_unplace(device, start, bytes);
  pthread_mutex_unlock(&lock);
  vd_discharge(device, bytes);
}

static uintptr_t map_host_memory(size_t bytes)
{
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (start == MAP_FAILED)
    return 0;
  madvise(start, bytes, MADV_NOHUGEPAGE); /* one byte written should cost one page */
  return (uintptr_t)start;
}

static void *allocate_for(enum owner owner, int device, size_t bytes, vd_kind kind)
{
  if (bytes > SIZE_MAX - VD_PAGE)
    return NULL;
  bytes = bytes ? (bytes + VD_PAGE - 1) / VD_PAGE * VD_PAGE : VD_PAGE;
  uintptr_t start =
      kind == VD_DEVICE ? take_device_memory(device, bytes) : map_host_memory(bytes);
  if (!start)
    return NULL;
  if (!add_entry((vd_range){start, bytes, kind, device}, owner))
    return (void *)start;
  if (kind == VD_DEVICE)
    give_device_memory(device, start, bytes);
  else
    munmap((void *)start, bytes);
  return NULL;
}

static int release_of(enum owner owner, void *pointer)
{
  entry *released = take_entry(pointer, owner);
  if (!released)
    return -1;
  vd_range range = released->range;
  free(released);
  if (range.kind == VD_DEVICE)
    give_device_memory(range.device, range.start, range.bytes);
  else
    munmap(pointer, range.bytes);
  return 0;
}

void *vd_allocate(int device, size_t bytes, vd_kind kind)
{
  return allocate_for(PROGRAM, device, bytes, kind);
}

int vd_release(void *pointer)
{
  return release_of(PROGRAM, pointer);
}

void *vd_allocate_unit(int device, size_t bytes)
{
  return allocate_for(POOL, device, bytes, VD_DEVICE);
}

void vd_release_unit(void *pointer)
{
  release_of(POOL, pointer);
}
