/* Kernels: registered by the host code that nvcc generates, launched, and never run. A
 * launch is checked as a card checks it, since programs rely on the errors. */
#define _GNU_SOURCE
#include "core.h"
#include "streams.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { /* cudaError_t */
  ACCEPTED = 0,
  INVALID_VALUE = 1,
  INVALID_CONFIGURATION = 9,
  NOT_SUPPORTED = 801,
  INVALID_CLUSTER_SIZE = 912,
};

enum { CLUSTER_DIMENSION = 4 }; /* cudaLaunchAttributeID */

enum { /* CUfunction_attribute, and the same numbers in cudaFuncAttribute */
  MAX_THREADS_PER_BLOCK = 0,
  NUM_REGISTERS = 4,
  PTX_VERSION = 5,
  BINARY_VERSION = 6,
  MAX_DYNAMIC_SHARED = 8,
  PREFERRED_CARVEOUT = 9,
  NON_PORTABLE_CLUSTERS = 14,
};

/* What a kernel may use of it without asking for more */
#define DEFAULT_SHARED 49152
/* No registers are read from the code: a middling number, the same for all kernels */
#define ASSUMED_REGISTERS 32

struct vd_module {
  const void *fat_binary;
  vd_code code;
  int looked_up;
};

struct vd_kernel {
  vd_kernel *next; /* with the same hash */
  const void *key;
  const char *name; /* mangled */
  vd_module *module; /* NULL: loaded by the program at run time */
  int dynamic_shared; /* bytes that a launch may ask for */
  int carveout;
  int non_portable_clusters;
  enum { NOT_YET_LAUNCHED, ORDINARY, ALL } sort;
};

/* ---- the table: many are registered, few are ever launched, none goes away ---- */

#define NUM_BUCKETS ((size_t)1 << 16)
static vd_kernel *buckets[NUM_BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static vd_kernel **bucket_of(const void *key)
{
  uint64_t mixed = (uintptr_t)key * (uint64_t)0x9E3779B97F4A7C15u;
  return &buckets[mixed >> 48];
}

/* By hundreds at a time: PyTorch alone registers tens of thousands. */
enum { RECORDS = 512 };

typedef struct slab {
  struct slab *next;
  vd_kernel records[RECORDS];
} slab;

static slab *slabs; /* the newest first */

/* With the lock held */
static vd_kernel *next_record(void)
{
  static int num_left;
  if (!num_left) {
    slab *new = calloc(1, sizeof *new);
    if (!new)
      return NULL;
    new->next = slabs;
    __atomic_store_n(&slabs, new, __ATOMIC_RELEASE);
    num_left = RECORDS;
  }
  return &slabs->records[RECORDS - num_left--];
}

static int is_record(const void *pointer)
{
  const slab *s = __atomic_load_n(&slabs, __ATOMIC_ACQUIRE);
  for (; s; s = s->next)
    if (pointer >= (void *)s->records && pointer < (void *)(s->records + RECORDS))
      return 1;
  return 0;
}

static vd_kernel *add_kernel(vd_module *module, const void *host_function, const char *name)
{
  pthread_mutex_lock(&lock);
  vd_kernel *kernel = next_record();
  if (kernel) {
    kernel->key = host_function ? host_function : kernel;
    kernel->name = name;
    kernel->module = module;
    kernel->dynamic_shared = DEFAULT_SHARED;
    kernel->carveout = -1;
    vd_kernel **bucket = bucket_of(kernel->key);
    kernel->next = *bucket;
    __atomic_store_n(bucket, kernel, __ATOMIC_RELEASE); /* readers take no lock */
  }
  pthread_mutex_unlock(&lock);
  return kernel;
}

void vd_register_kernel(vd_module *module, const void *host_function, const char *name)
{
  add_kernel(module, host_function, name);
}

vd_kernel *vd_new_kernel(const char *name)
{
  return add_kernel(NULL, NULL, strdup(name));
}

vd_kernel *vd_find_kernel(const void *host_function)
{
  vd_kernel *kernel = __atomic_load_n(bucket_of(host_function), __ATOMIC_ACQUIRE);
  while (kernel && kernel->key != host_function)
    kernel = kernel->next;
  return kernel || !is_record(host_function) ? kernel : (vd_kernel *)host_function;
}

const char *vd_kernel_name(const vd_kernel *kernel)
{
  return kernel->name;
}

/* ---- modules ---- */

vd_module *vd_new_module(const void *fat_binary_wrapper)
{
  vd_module *module = calloc(1, sizeof *module);
  if (module)
    module->fat_binary = fat_binary_wrapper;
  return module;
}

static vd_code code_of(const vd_kernel *kernel)
{
  vd_module *module = kernel->module;
  if (!module) /* compiled for the card at run time */
    return vd_code_for_card(NULL);
  pthread_mutex_lock(&lock);
  if (!module->looked_up) {
    module->code = vd_code_for_card(module->fat_binary);
    module->looked_up = 1;
    if (!module->code.runs)
      vd_unsupported("kernels without code for this compute capability");
  }
  pthread_mutex_unlock(&lock);
  return module->code;
}

/* ---- launching ---- */

static __thread int last_was_all;

int vd_last_was_all(void)
{
  return last_was_all;
}

void vd_note_other_work(void)
{
  last_was_all = 0;
}

/* PyTorch reduces x.all() with reduce_kernel over a functor made in and_kernel_cuda. */
static int is_all(const char *name)
{
  return name && strstr(name, "reduce_kernel") && strstr(name, "and_kernel_cuda");
}

static void note_launch(vd_kernel *kernel)
{
  if (kernel->sort == NOT_YET_LAUNCHED) {
    code_of(kernel); /* which says so where there is none for the card */
    kernel->sort = is_all(kernel->name) ? ALL : ORDINARY;
  }
  last_was_all = kernel->sort == ALL;
}

static int fits(const unsigned size[3], const unsigned limit[3])
{
  for (int i = 0; i < 3; i++)
    if (size[i] < 1 || size[i] > limit[i])
      return 0;
  return 1;
}

/* Blocks of a cluster, 1 where the launch asks for none */
static unsigned cluster_size(const vd_launch_config *config, const unsigned **cluster)
{
  static const unsigned none[3] = {1, 1, 1};
  *cluster = none;
  for (unsigned i = 0; i < config->num_attributes; i++)
    if (config->attributes[i].id == CLUSTER_DIMENSION)
      *cluster = config->attributes[i].value.cluster;
  return (*cluster)[0] * (*cluster)[1] * (*cluster)[2];
}

static int check_cluster(const vd_kernel *kernel, const vd_launch_config *config)
{
  const unsigned *cluster;
  unsigned size = cluster_size(config, &cluster);
  if (size == 1)
    return ACCEPTED;
  if (vd_the_card()->major < 9)
    return NOT_SUPPORTED;
  if (size < 1 || size > (kernel->non_portable_clusters ? 16 : 8))
    return INVALID_CLUSTER_SIZE;
  for (int i = 0; i < 3; i++)
    if (config->grid[i] % cluster[i])
      return INVALID_CONFIGURATION;
  return ACCEPTED;
}

int vd_launch(vd_kernel *kernel, const vd_launch_config *config)
{
  static const unsigned largest_grid[3] = {INT32_MAX, 65535, 65535};
  static const unsigned largest_block[3] = {1024, 1024, 64};
  const unsigned *block = config->block;
  if (!fits(config->grid, largest_grid) || !fits(block, largest_block) ||
      block[0] * block[1] * block[2] > 1024)
    return INVALID_CONFIGURATION;
  if (config->shared_bytes > (size_t)kernel->dynamic_shared)
    return INVALID_VALUE;
  if (config->num_attributes && check_cluster(kernel, config))
    return check_cluster(kernel, config);
  note_launch(kernel);
  vd_capture_node(config->stream, VD_KERNEL_NODE);
  return ACCEPTED;
}

/* ---- attributes ---- */

int vd_kernel_attribute(const vd_kernel *kernel, int attribute)
{
  switch (attribute) {
  case MAX_THREADS_PER_BLOCK:
    return 1024;
  case NUM_REGISTERS:
    return ASSUMED_REGISTERS;
  case PTX_VERSION:
    return code_of(kernel).ptx;
  case BINARY_VERSION:
    return code_of(kernel).binary;
  case MAX_DYNAMIC_SHARED:
    return kernel->dynamic_shared;
  case PREFERRED_CARVEOUT:
    return kernel->carveout;
  case NON_PORTABLE_CLUSTERS:
    return kernel->non_portable_clusters;
  default: /* static shared, constant and local memory, required clusters */
    return 0;
  }
}

int vd_set_kernel_attribute(vd_kernel *kernel, int attribute, int value)
{
  switch (attribute) {
  case MAX_DYNAMIC_SHARED:
    if (value < 0 || value > vd_the_card()->shared_optin)
      return INVALID_VALUE;
    kernel->dynamic_shared = value;
    return ACCEPTED;
  case PREFERRED_CARVEOUT:
    kernel->carveout = value;
    return ACCEPTED;
  case NON_PORTABLE_CLUSTERS:
    kernel->non_portable_clusters = value;
    return ACCEPTED;
  default: /* hints on clusters and scheduling */
    return ACCEPTED;
  }
}

static int least(int a, int b)
{
  return a < b ? a : b;
}

/* Blocks that an SM holds at once: as many as its threads, block slots, registers and
 * shared memory allow. */
int vd_occupancy(int threads_per_block, size_t shared_bytes)
{
  const vd_card *card = vd_the_card();
  if (threads_per_block < 1 || threads_per_block > 1024)
    return 0;
  int warps = (threads_per_block + 31) / 32;
  int blocks = least(card->blocks_per_sm, card->threads_per_sm / 32 / warps);
  blocks = least(blocks, 65536 / (ASSUMED_REGISTERS * 32 * warps));
  size_t shared = shared_bytes + (size_t)card->shared_reserved;
  if (shared_bytes)
    blocks = least(blocks, (int)((size_t)card->shared_per_sm / shared));
  return blocks;
}

int vd_active_clusters(const vd_launch_config *config)
{
  const unsigned *block = config->block, *cluster;
  int threads = (int)(block[0] * block[1] * block[2]);
  int blocks = vd_occupancy(threads, config->shared_bytes) * vd_the_card()->num_sms;
  unsigned size = cluster_size(config, &cluster);
  return size ? blocks / (int)size : 0;
}
