/* The CUDA runtime's copies and fills. The direction is read from the addresses; all are
 * over when they return, also those that belong to a graph that is being captured: what a
 * graph copies is copied once, when it is captured. */
#include "streams.h"

#include <string.h>

/* PyTorch reads x.all() back as one byte, right after its kernel. True stands for "the
 * values are as they should be", which is what ordinary data gives. */
static int reads_all(const void *to, const void *from, size_t bytes)
{
  return bytes == 1 && vd_last_was_all() && vd_is_device_address(from) &&
         !vd_is_device_address(to);
}

static cudaError_t copy(void *to, const void *from, size_t bytes, cudaStream_t stream)
{
  if (bytes && (!to || !from))
    return vd_result(cudaErrorInvalidValue);
  vd_capture_node(stream, VD_COPY_NODE);
  if (reads_all(to, from, bytes)) {
    *(unsigned char *)to = 1;
    return cudaSuccess;
  }
  if (vd_is_device_address(to))
    vd_note_other_work();
  vd_copy(to, from, bytes);
  return cudaSuccess;
}

/* ---- one row ---- */

VD_EXPORT cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int kind)
{
  return copy(to, from, bytes, NULL);
}

VD_EXPORT cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind,
                                      cudaStream_t stream)
{
  return copy(to, from, bytes, stream);
}

VD_EXPORT cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from,
                                     int from_device, size_t bytes)
{
  return copy(to, from, bytes, NULL);
}

VD_EXPORT cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from,
                                          int from_device, size_t bytes,
                                          cudaStream_t stream)
{
  return copy(to, from, bytes, stream);
}

/* ---- rows and slices ---- */

/* Larger ones are not kept: their rows would be, each by itself. */
static int is_kept(void *to, size_t bytes)
{
  return !vd_is_device_address(to) || bytes <= vd_the_card()->copy_limit;
}

static void copy_rows(char *to, size_t to_pitch, const char *from, size_t from_pitch,
                      size_t width, size_t height)
{
  if (width == to_pitch && width == from_pitch) {
    vd_copy(to, from, width * height);
  } else if (is_kept(to, width * height) || vd_is_device_address(from)) {
    for (size_t row = 0; row < height; row++)
      vd_copy(to + row * to_pitch, from + row * from_pitch, width);
  } else {
    for (size_t row = 0; row < height; row++)
      vd_fill(to + row * to_pitch, 0, width);
  }
}

static cudaError_t copy_2d(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                           size_t width, size_t height, cudaStream_t stream)
{
  if (width && height && (!to || !from || width > to_pitch || width > from_pitch))
    return vd_result(cudaErrorInvalidValue);
  vd_capture_node(stream, VD_COPY_NODE);
  copy_rows(to, to_pitch, from, from_pitch, width, height);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from,
                                   size_t from_pitch, size_t width, size_t height, int kind)
{
  return copy_2d(to, to_pitch, from, from_pitch, width, height, NULL);
}

VD_EXPORT cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from,
                                        size_t from_pitch, size_t width, size_t height,
                                        int kind, cudaStream_t stream)
{
  return copy_2d(to, to_pitch, from, from_pitch, width, height, stream);
}

static char *corner(cudaPitchedPtr volume, cudaPos at)
{
  return (char *)volume.ptr + at.z * volume.pitch * volume.ysize + at.y * volume.pitch +
         at.x;
}

/* Arrays, which textures are made of, do not exist here. */
static cudaError_t copy_3d(const cudaMemcpy3DParms *p, cudaStream_t stream)
{
  if (p->srcArray || p->dstArray || !p->srcPtr.ptr || !p->dstPtr.ptr)
    return vd_result(cudaErrorInvalidValue);
  vd_capture_node(stream, VD_COPY_NODE);
  for (size_t z = 0; z < p->extent.depth; z++) {
    char *to = corner(p->dstPtr, p->dstPos) + z * p->dstPtr.pitch * p->dstPtr.ysize;
    char *from = corner(p->srcPtr, p->srcPos) + z * p->srcPtr.pitch * p->srcPtr.ysize;
    copy_rows(to, p->dstPtr.pitch, from, p->srcPtr.pitch, p->extent.width,
              p->extent.height);
  }
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms *parameters)
{
  return copy_3d(parameters, NULL);
}

VD_EXPORT cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms *parameters,
                                        cudaStream_t stream)
{
  return copy_3d(parameters, stream);
}

/* ---- fills ---- */

static cudaError_t fill(void *to, int byte, size_t bytes, cudaStream_t stream)
{
  if (bytes && !to)
    return vd_result(cudaErrorInvalidValue);
  vd_capture_node(stream, VD_FILL_NODE);
  vd_fill(to, byte, bytes);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemset(void *to, int byte, size_t bytes)
{
  return fill(to, byte, bytes, NULL);
}

VD_EXPORT cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream)
{
  return fill(to, byte, bytes, stream);
}

static cudaError_t fill_2d(void *to, size_t pitch, int byte, size_t width, size_t height,
                           cudaStream_t stream)
{
  if (width && height && (!to || width > pitch))
    return vd_result(cudaErrorInvalidValue);
  vd_capture_node(stream, VD_FILL_NODE);
  for (size_t row = 0; row < height; row++)
    vd_fill((char *)to + row * pitch, byte, width);
  return cudaSuccess;
}

VD_EXPORT cudaError_t cudaMemset2D(void *to, size_t pitch, int byte, size_t width,
                                   size_t height)
{
  return fill_2d(to, pitch, byte, width, height, NULL);
}

VD_EXPORT cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int byte, size_t width,
                                        size_t height, cudaStream_t stream)
{
  return fill_2d(to, pitch, byte, width, height, stream);
}
