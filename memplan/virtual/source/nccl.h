/* What the C files of the virtual NCCL share: numbers of nccl.h under its own names,
 * and a communicator. */
#ifndef MEMPLAN_NCCL_H
#define MEMPLAN_NCCL_H

#include <stddef.h>
#include <stdint.h>

#include "device.h"

/* ncclResult_t */
enum {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
  ncclTimeout = 8
};

/* ncclDataType_t */
enum {
  ncclInt8 = 0,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclUint32 = 3,
  ncclInt64 = 4,
  ncclUint64 = 5,
  ncclFloat16 = 6,
  ncclFloat32 = 7,
  ncclFloat64 = 8,
  ncclBfloat16 = 9,
  ncclFloat8e4m3 = 10,
  ncclFloat8e5m2 = 11
};

/* ncclRedOp_t */
enum { ncclSum = 0, ncclNumOps = 5 };

typedef struct {
  int num_ranks;
  int rank;
  int device;
  size_t charged_bytes;
} communicator;

#endif
