/* Limits and abilities of the card, by the numbers of CUdevice_attribute (which
 * cudaDeviceAttr shares). What differs between cards comes from the card; the rest is the
 * same on every data-center card from compute capability 7.0 on. What the device does not
 * play is said to be missing, so that programs do not ask for it. */
#include "core.h"

static int on_hopper_or_later(int value)
{
  return vd_the_card()->major >= 9 ? value : 0;
}

int vd_attribute(int attribute, int device)
{
  const vd_card *card = vd_the_card();
  switch (attribute) {
  case 1: /* MAX_THREADS_PER_BLOCK */
  case 2: /* MAX_BLOCK_DIM_X */
  case 3: /* MAX_BLOCK_DIM_Y */
    return 1024;
  case 4: /* MAX_BLOCK_DIM_Z */
    return 64;
  case 5: /* MAX_GRID_DIM_X */
    return INT32_MAX;
  case 6: /* MAX_GRID_DIM_Y */
  case 7: /* MAX_GRID_DIM_Z */
    return 65535;
  case 8: /* MAX_SHARED_MEMORY_PER_BLOCK */
    return 49152;
  case 9: /* TOTAL_CONSTANT_MEMORY */
    return 65536;
  case 10: /* WARP_SIZE */
    return 32;
  case 11: /* MAX_PITCH */
    return INT32_MAX;
  case 12: /* MAX_REGISTERS_PER_BLOCK */
    return 65536;
  case 13: /* CLOCK_RATE */
    return card->clock_khz;
  case 14: /* TEXTURE_ALIGNMENT */
    return 512;
  case 15: /* GPU_OVERLAP */
    return 1;
  case 16: /* MULTIPROCESSOR_COUNT */
    return card->num_sms;
  case 19: /* CAN_MAP_HOST_MEMORY */
    return 1;
  case 30: /* SURFACE_ALIGNMENT */
    return 512;
  case 31: /* CONCURRENT_KERNELS */
    return 1;
  case 32: /* ECC_ENABLED: cards with stacked memory, whose buses are this wide */
    return card->bus_bits >= 2048;
  case 33: /* PCI_BUS_ID */
    return vd_pci_bus(vd_physical(device));
  case 36: /* MEMORY_CLOCK_RATE */
    return card->memory_clock_khz;
  case 37: /* GLOBAL_MEMORY_BUS_WIDTH */
    return card->bus_bits;
  case 38: /* L2_CACHE_SIZE */
    return card->l2_bytes;
  case 39: /* MAX_THREADS_PER_MULTIPROCESSOR */
    return card->threads_per_sm;
  case 40: /* ASYNC_ENGINE_COUNT */
    return card->copy_engines;
  case 41: /* UNIFIED_ADDRESSING */
    return 1;
  case 51: /* TEXTURE_PITCH_ALIGNMENT */
    return 32;
  case 75: /* COMPUTE_CAPABILITY_MAJOR */
    return card->major;
  case 76: /* COMPUTE_CAPABILITY_MINOR */
    return card->minor;
  case 78: /* STREAM_PRIORITIES_SUPPORTED */
  case 79: /* GLOBAL_L1_CACHE_SUPPORTED */
  case 80: /* LOCAL_L1_CACHE_SUPPORTED */
    return 1;
  case 81: /* MAX_SHARED_MEMORY_PER_MULTIPROCESSOR */
    return card->shared_per_sm;
  case 82: /* MAX_REGISTERS_PER_MULTIPROCESSOR */
    return 65536;
  case 83: /* MANAGED_MEMORY */
    return 1;
  case 87: /* SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO */
    return card->minor == 0 && card->major < 12 ? 2 : 64;
  case 89: /* CONCURRENT_MANAGED_ACCESS */
  case 90: /* COMPUTE_PREEMPTION_SUPPORTED */
  case 91: /* CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM */
  case 95: /* COOPERATIVE_LAUNCH */
    return 1;
  case 97: /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
    return card->shared_optin;
  case 98: /* CAN_FLUSH_REMOTE_WRITES */
  case 99: /* HOST_REGISTER_SUPPORTED */
  case 102: /* VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED */
    return 1;
  case 106: /* MAX_BLOCKS_PER_MULTIPROCESSOR */
    return card->blocks_per_sm;
  case 108: /* MAX_PERSISTING_L2_CACHE_SIZE */
    return card->major >= 8 ? card->l2_bytes / 16 * 10 : 0;
  case 109: /* MAX_ACCESS_POLICY_WINDOW_SIZE */
    return card->major >= 8 ? 134213632 : 0;
  case 111: /* RESERVED_SHARED_MEMORY_PER_BLOCK */
    return card->shared_reserved;
  case 114: /* TIMELINE_SEMAPHORE_INTEROP_SUPPORTED */
  case 115: /* MEMORY_POOLS_SUPPORTED */
    return 1;
  case 120: /* CLUSTER_LAUNCH */
    return on_hopper_or_later(1);
  case 122: /* CAN_USE_64_BIT_STREAM_MEM_OPS */
  case 123: /* CAN_USE_STREAM_WAIT_VALUE_NOR */
  case 125: /* IPC_EVENT_SUPPORTED */
    return 1;
  case 126: /* MEM_SYNC_DOMAIN_COUNT */
    return card->major >= 9 ? 4 : 1;
  case 127: /* TENSOR_MAP_ACCESS_SUPPORTED */
    return on_hopper_or_later(1);
  case 129: /* UNIFIED_FUNCTION_POINTERS */
    return 1;
  case 131: /* NUMA_ID */
  case 134: /* HOST_NUMA_ID */
    return -1;
  default: /* textures, surfaces, RDMA, multicast, handles for other processes, ... */
    return 0;
  }
}
