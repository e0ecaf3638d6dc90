/* What the sources of the CUDA runtime library share among themselves; device.h is what
 * the other libraries see. */
#ifndef MEMPLAN_CORE_H
#define MEMPLAN_CORE_H

#include "device.h"

/* The signatures are NVIDIA's, and a device that computes nothing has no use for most of
 * what it is handed. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

#ifndef VD_CUDA
#error "compile with -DVD_CUDA=12 or -DVD_CUDA=13, the CUDA that PyTorch was built for"
#endif

#pragma GCC visibility push(hidden)

/* ---- addresses.c ---- */
/* Where the next segment of a device goes, 0: no room in its address space. */
uintptr_t vd_place(int device, size_t bytes);
void vd_unplace(int device, uintptr_t start, size_t bytes);
int vd_is_device_address(const void *pointer);

/* ---- memory.c ---- */
/* True where all of it is host memory that vd_allocate mapped. */
int vd_is_mapped_here(const void *start, size_t bytes);
/* Where the segment around an address ends, if not before `limit`. */
uintptr_t vd_end_of_segment(uintptr_t start, uintptr_t limit);

/* Device memory that a pool hands out in parts. */
void *vd_allocate_unit(int device, size_t bytes); /* NULL: no room */
void vd_release_unit(void *pointer);

/* ---- pools.c ---- */
int vd_free_from_pool(void *pointer); /* 0: done */

/* ---- values.c ---- */
/* Memory that was given back: no values lie there any more, and no blocks. */
void vd_forget_segment(uintptr_t start, size_t bytes);

/* ---- fatbin.c ---- */
/* The architectures (90 for sm_90) of the PTX and the machine code that a driver would
 * take for this card out of a fat binary. Where nothing in it runs on the card, those of
 * the oldest code that there is. */
typedef struct {
  int ptx, binary;
  int runs;
} vd_code;
vd_code vd_code_for_card(const void *fat_binary_wrapper);

/* ---- kernels.c ---- */
typedef struct vd_module vd_module; /* a fat binary, a library or a driver's module */
vd_module *vd_new_module(const void *fat_binary_wrapper);
void vd_register_kernel(vd_module *module, const void *host_function, const char *name);
/* By its host function, or the handle itself. NULL: neither */
vd_kernel *vd_find_kernel(const void *host_function);
const char *vd_kernel_name(const vd_kernel *kernel);
/* True where the last that this thread gave the device to do was the kernel of x.all(). */
int vd_last_was_all(void);
void vd_note_other_work(void); /* than a kernel */

#pragma GCC visibility pop

#endif
