/* What the libraries of the virtual device share. The state lives in the CUDA runtime
 * library (libcudart); every other library is linked against it. No header of NVIDIA's
 * is used anywhere: the few types needed are declared where they are used. */
#ifndef MEMPLAN_DEVICE_H
#define MEMPLAN_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#define VD_EXPORT __attribute__((visibility("default")))
#define VD_PAGE ((size_t)2 << 20) /* the driver maps device memory in pages of 2 MiB */
#define VD_MAX_DEVICES 16

/* ---- the card: read once from MEMPLAN_DEVICE, "key=value;key=value;..." ---- */
typedef struct {
  char name[128];
  int count;                 /* devices of the machine; 0: no card was described */
  size_t total_bytes;        /* what cudaMemGetInfo calls total */
  size_t context_bytes;      /* charged to a device when it is first used */
  size_t nccl_bytes;         /* charged for each communicator */
  int major, minor, num_sms; /* compute capability, streaming multiprocessors */
  int threads_per_sm, blocks_per_sm;
  int shared_per_sm, shared_optin, shared_reserved; /* bytes */
  int l2_bytes, clock_khz, memory_clock_khz, bus_bits, copy_engines;
  int driver_version;        /* 13000 */
  size_t copy_limit;         /* larger copies to the device are not kept */
  int addresses_rise;        /* 0: as the Linux driver places segments */
} vd_card;

VD_EXPORT const vd_card *vd_the_card(void);

/* ---- which devices the program sees: CUDA_VISIBLE_DEVICES, read when the CUDA runtime
 * or driver is first asked. `device` is the number among those, `physical` the number
 * in the machine, which NVML counts by. ---- */
VD_EXPORT int vd_num_devices(void);
VD_EXPORT int vd_physical(int device);
VD_EXPORT int vd_device_of(int physical); /* -1: hidden from the program */
VD_EXPORT void vd_uuid(int physical, unsigned char uuid[16]);
VD_EXPORT int vd_pci_bus(int physical); /* the others of its PCI numbers are 0 */

/* ---- memory ---- */
typedef enum { VD_DEVICE = 1, VD_PINNED = 2, VD_MANAGED = 3 } vd_kind;
typedef struct {
  uintptr_t start;
  size_t bytes;
  vd_kind kind;
  int device;
} vd_range;

VD_EXPORT int vd_current_device(void);
VD_EXPORT void vd_set_current_device(int device);
VD_EXPORT void vd_use_device(int device);                 /* charges the context once */
VD_EXPORT int vd_device_in_use(int device);
VD_EXPORT void *vd_allocate(int device, size_t bytes, vd_kind kind); /* NULL: no room */
VD_EXPORT int vd_release(void *pointer);                  /* 0: done */
VD_EXPORT int vd_charge(int device, size_t bytes);        /* 0: there was room */
VD_EXPORT void vd_discharge(int device, size_t bytes);
VD_EXPORT size_t vd_used_bytes(int device);
VD_EXPORT int vd_find(const void *pointer, vd_range *found); /* 1: found */
VD_EXPORT int vd_add_range(void *start, size_t bytes, vd_kind kind, int device);
VD_EXPORT int vd_drop_range(void *start); /* 0: done */
/* Device addresses without memory behind them, for virtual memory management. */
VD_EXPORT void *vd_reserve_addresses(size_t bytes, size_t alignment); /* NULL: none */
VD_EXPORT int vd_free_addresses(void *start, size_t bytes);           /* 0: done */

/* ---- values: what the host wrote is kept, all else reads as zero ---- */
VD_EXPORT void vd_copy(void *to, const void *from, size_t bytes); /* any direction */
VD_EXPORT void vd_fill(void *to, int byte, size_t bytes);
/* PyTorch's allocator handed out the block that starts here, or took it back: what was
 * written from here to the next block that is still out is forgotten. */
VD_EXPORT void vd_forget(const void *start);
VD_EXPORT void vd_forget_freed(const void *start);

/* ---- kernels: they do nothing; a handle is a CUkernel, CUfunction or cudaKernel_t ---- */
typedef struct vd_kernel vd_kernel;
VD_EXPORT vd_kernel *vd_new_kernel(const char *name);
typedef struct { /* cudaLaunchAttribute and CUlaunchAttribute */
  int id;
  char padding[4];
  union {
    char bytes[64];
    unsigned cluster[3];
  } value;
} vd_launch_attribute;
typedef struct {
  unsigned grid[3], block[3];
  size_t shared_bytes;
  void *stream;
  const vd_launch_attribute *attributes;
  unsigned num_attributes;
} vd_launch_config;
/* Checks a launch as a card does; returns the CUDA error, 0: accepted. */
VD_EXPORT int vd_launch(vd_kernel *kernel, const vd_launch_config *config);
VD_EXPORT int vd_active_clusters(const vd_launch_config *config);
VD_EXPORT int vd_kernel_attribute(const vd_kernel *kernel, int attribute);
VD_EXPORT int vd_set_kernel_attribute(vd_kernel *kernel, int attribute, int value);
VD_EXPORT int vd_occupancy(int threads_per_block, size_t shared_bytes);
/* A library computes on the stream: a node of the graph that it is captured into. */
VD_EXPORT void vd_compute_on(void *stream);

/* ---- what was asked ---- */
/* A function that nobody wrote by hand: `compute` is true where doing nothing is right
 * (a routine that only computes); others are counted and named in the report. */
VD_EXPORT long vd_default(const char *function, int compute);
VD_EXPORT void vd_unsupported(const char *function);
/* "name count\n" lines of unsupported calls; returns the bytes needed. */
VD_EXPORT size_t vd_unsupported_calls(char *text, size_t room);
VD_EXPORT int vd_attribute(int attribute, int device); /* CUdevice_attribute numbers */
VD_EXPORT void vd_log(const char *format, ...)
    __attribute__((format(printf, 1, 2))); /* to the file MEMPLAN_DEVICE_LOG, if set */

#endif
