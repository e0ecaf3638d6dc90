/* NCCL's collectives where one process plays one rank and there are no peers.
 *
 * Training programs run the same code on every rank, and exchange small control values
 * (parameter counts, shapes, flags) that must agree. So every other rank is taken to
 * hold the values that this one holds: what a gather brings is this rank's own, once
 * for each rank, and a sum is this rank's times their number. Values that no host wrote
 * read as zero and move nothing. */
#include "nccl.h"

#include <stdlib.h>

#define LARGEST_SUM_BYTES 4096 /* larger reductions are of gradients, not of counts */
#define LARGEST_GATHER_BYTES ((size_t)16 << 20)
#define MOST_IN_A_GROUP 4096

static size_t element_bytes(int type)
{
  switch (type) {
  case ncclFloat16:
  case ncclBfloat16:
    return 2;
  case ncclInt32:
  case ncclUint32:
  case ncclFloat32:
    return 4;
  case ncclInt64:
  case ncclUint64:
  case ncclFloat64:
    return 8;
  default:
    return 1;
  }
}

static char *slot(const void *buffer, size_t bytes, int rank)
{
  return (char *)(uintptr_t)buffer + bytes * (size_t)rank;
}

/* What every rank sends: to each its slot. In place, ours lies in its slot already. Of
 * more than control values would be, only our own is kept. */
static void gather(void *received, const void *sent, size_t bytes,
                   const communicator *used)
{
  int keeps_all = bytes * (size_t)used->num_ranks <= LARGEST_GATHER_BYTES;
  for (int rank = 0; rank < used->num_ranks; rank++)
    if (keeps_all || rank == used->rank)
      vd_copy(slot(received, bytes, rank), sent, bytes);
    else
      vd_fill(slot(received, bytes, rank), 0, bytes);
}

/* ---- sums of small counts ---- */

#define MULTIPLY(c_type)                        \
  for (size_t i = 0; i < count; i++) {          \
    ((c_type *)values)[i] *= (c_type)num_ranks; \
  }                                             \
  return 1;

static int multiply(void *values, size_t count, int type, int num_ranks)
{
  switch (type) {
  case ncclInt8:
    MULTIPLY(int8_t)
  case ncclUint8:
    MULTIPLY(uint8_t)
  case ncclInt32:
    MULTIPLY(int32_t)
  case ncclUint32:
    MULTIPLY(uint32_t)
  case ncclInt64:
    MULTIPLY(int64_t)
  case ncclUint64:
    MULTIPLY(uint64_t)
  case ncclFloat32:
    MULTIPLY(float)
  case ncclFloat64:
    MULTIPLY(double)
  default:
    return 0;
  }
}

static int any_set(const unsigned char *values, size_t bytes)
{
  for (size_t i = 0; i < bytes; i++)
    if (values[i] != 0)
      return 1;
  return 0;
}

/* The other operators give what every rank holds: a maximum, an average, a sum of parts
 * that were divided by the number of ranks before. */
static void reduce(void *received, const void *sent, size_t count, int type,
                   int reduction, int num_ranks)
{
  size_t bytes = count * element_bytes(type);
  _Alignas(8) unsigned char values[LARGEST_SUM_BYTES];
  vd_copy(received, sent, bytes);
  if (reduction != ncclSum || num_ranks == 1 || bytes > sizeof values)
    return;
  vd_copy(values, received, bytes);
  if (any_set(values, bytes) && multiply(values, count, type, num_ranks))
    vd_copy(received, values, bytes);
}

/* ---- collectives ---- */

VD_EXPORT int ncclAllReduce(const void *sent, void *received, size_t count, int type,
                            int reduction, const communicator *used, void *stream)
{
  (void)stream;
  reduce(received, sent, count, type, reduction, used->num_ranks);
  return ncclSuccess;
}

VD_EXPORT int ncclReduce(const void *sent, void *received, size_t count, int type,
                         int reduction, int root, const communicator *used,
                         void *stream)
{
  (void)stream;
  if (used->rank == root)
    reduce(received, sent, count, type, reduction, used->num_ranks);
  return ncclSuccess;
}

VD_EXPORT int ncclReduceScatter(const void *sent, void *received, size_t count,
                                int type, int reduction, const communicator *used,
                                void *stream)
{
  (void)stream;
  const void *part = slot(sent, count * element_bytes(type), used->rank);
  reduce(received, part, count, type, reduction, used->num_ranks);
  return ncclSuccess;
}

VD_EXPORT int ncclAllGather(const void *sent, void *received, size_t count, int type,
                            const communicator *used, void *stream)
{
  (void)stream;
  gather(received, sent, count * element_bytes(type), used);
  return ncclSuccess;
}

VD_EXPORT int ncclGather(const void *sent, void *received, size_t count, int type,
                         int root, const communicator *used, void *stream)
{
  (void)stream;
  if (used->rank == root)
    gather(received, sent, count * element_bytes(type), used);
  return ncclSuccess;
}

/* Only the root holds what is sent: elsewhere what is received stays unknown. */
VD_EXPORT int ncclBroadcast(const void *sent, void *received, size_t count, int type,
                            int root, const communicator *used, void *stream)
{
  (void)stream;
  if (used->rank == root)
    vd_copy(received, sent, count * element_bytes(type));
  return ncclSuccess;
}

VD_EXPORT int ncclBcast(void *buffer, size_t count, int type, int root,
                        const communicator *used, void *stream)
{
  return ncclBroadcast(buffer, buffer, count, type, root, used, stream);
}

VD_EXPORT int ncclScatter(const void *sent, void *received, size_t count, int type,
                          int root, const communicator *used, void *stream)
{
  (void)stream;
  size_t bytes = count * element_bytes(type);
  if (used->rank == root)
    vd_copy(received, slot(sent, bytes, root), bytes);
  return ncclSuccess;
}

/* Every rank sends this one the part that bears its number. */
VD_EXPORT int ncclAlltoAll(const void *sent, void *received, size_t count, int type,
                           const communicator *used, void *stream)
{
  (void)stream;
  size_t bytes = count * element_bytes(type);
  gather(received, slot(sent, bytes, used->rank), bytes, used);
  return ncclSuccess;
}

/* ---- sends and receives, which only a group brings together ---- */

typedef struct {
  void *buffer;
  size_t bytes;
  int to_itself;
  int is_send;
} transfer;

static _Thread_local int depth;
static _Thread_local transfer *transfers;
static _Thread_local int num_transfers;

static void remember(const void *buffer, size_t bytes, int to_itself, int is_send)
{
  if (depth == 0 || num_transfers == MOST_IN_A_GROUP)
    return;
  if (transfers == NULL)
    transfers = malloc(MOST_IN_A_GROUP * sizeof *transfers);
  if (transfers != NULL) {
    void *start = (void *)(uintptr_t)buffer;
    transfers[num_transfers++] = (transfer){start, bytes, to_itself, is_send};
  }
}

VD_EXPORT int ncclSend(const void *sent, size_t count, int type, int peer,
                       const communicator *used, void *stream)
{
  (void)stream;
  remember(sent, count * element_bytes(type), peer == used->rank, 1);
  return ncclSuccess;
}

VD_EXPORT int ncclRecv(void *received, size_t count, int type, int peer,
                       const communicator *used, void *stream)
{
  (void)stream;
  remember(received, count * element_bytes(type), peer == used->rank, 0);
  return ncclSuccess;
}

/* A peer sends this rank what this rank sends itself; in a ring, which has no such
 * send, what this rank sends on. Sizes must agree. */
static const transfer *send_for(const transfer *receive)
{
  const transfer *found = NULL;
  for (int i = 0; i < num_transfers; i++) {
    const transfer *send = &transfers[i];
    if (send->is_send && send->bytes == receive->bytes &&
        (found == NULL || (send->to_itself && !found->to_itself))) {
      found = send;
    }
  }
  return found;
}

static void deliver(void)
{
  for (int i = 0; i < num_transfers; i++) {
    const transfer *send = transfers[i].is_send ? NULL : send_for(&transfers[i]);
    if (send != NULL)
      vd_copy(transfers[i].buffer, send->buffer, send->bytes);
  }
  free(transfers);
  transfers = NULL;
  num_transfers = 0;
}

VD_EXPORT int ncclGroupStart(void)
{
  depth++;
  return ncclSuccess;
}

VD_EXPORT int ncclGroupEnd(void)
{
  if (depth == 0)
    return ncclInvalidUsage;
  if (--depth == 0 && num_transfers > 0)
    deliver();
  return ncclSuccess;
}

/* ---- operators ---- */

/* The factor is taken to be one over the number of ranks, as for an average. */
VD_EXPORT int ncclRedOpCreatePreMulSum(int *reduction, void *factor, int type,
                                       int residence, const communicator *used)
{
  (void)factor, (void)type, (void)residence, (void)used;
  *reduction = ncclNumOps;
  return ncclSuccess;
}

VD_EXPORT int ncclRedOpDestroy(int reduction, const communicator *used)
{
  (void)reduction, (void)used;
  return ncclSuccess;
}
