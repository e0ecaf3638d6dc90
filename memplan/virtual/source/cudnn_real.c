/* The real cuDNN, opened beside the virtual one and used without a device.
 *
 * Since 9.8 the graph API takes a description of a card, in JSON, in place of a handle
 * (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION). Its heuristics, the support of its
 * engines and the sizes of their workspaces are then NVIDIA's own answers for the card
 * described; nothing is ever executed. */
#define _GNU_SOURCE
#include "cudnn.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_ROOM 4096
#define CARD_ROOM 2048

static cudnn_library library;
static int heuristics_ready;
static pthread_once_t opened = PTHREAD_ONCE_INIT;

/* ---- where it lies ---- */

/* pip puts torch/lib and nvidia/cudnn/lib side by side. */
static int beside_torch(struct dl_phdr_info *object, size_t size, void *path)
{
  (void)size;
  const char *end = strstr(object->dlpi_name, "/torch/lib/libtorch_cuda.so");
  if (end == NULL)
    return 0;
  int length = (int)(end - object->dlpi_name);
  snprintf(path, PATH_ROOM, "%.*s/nvidia/cudnn/lib/libcudnn.so.9", length,
           object->dlpi_name);
  return 1;
}

static void find_library(char path[PATH_ROOM])
{
  const char *given = getenv("MEMPLAN_CUDNN");
  path[0] = '\0';
  if (given != NULL && given[0] == '/')
    snprintf(path, PATH_ROOM, "%s", given);
  else
    dl_iterate_phdr(beside_torch, path);
}

/* ---- the card, as cuDNN wants it described ---- */

static void plain_name(char *to, size_t room, const char *name)
{
  size_t length = 0;
  for (; *name != '\0' && length + 1 < room; name++)
    if (*name != '"' && *name != '\\')
      to[length++] = *name;
  to[length] = '\0';
}

static int describe_card(char text[CARD_ROOM])
{
  const vd_card *card = vd_the_card();
  char name[sizeof card->name];
  plain_name(name, sizeof name, card->name);
  return snprintf(
      text, CARD_ROOM,
      "{\"deviceVer\":%d,\"driverVer\":%d,\"cudaDeviceId\":0,"
      "\"multiProcessorCount\":%d,\"smClockRateKHz\":%d,\"memClockRateKHz\":%d,"
      "\"l2CacheSize\":%d,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
      "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":%d,"
      "\"maxRegistersPerSM\":65536,\"regsPerBlock\":65536,\"pciDeviceId\":0,"
      "\"maxCtasPerSM\":%d,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,"
      "\"isTccDriver\":0,\"supportCoopLaunch\":1,\"totalGlobalMem\":%zu,"
      "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
      "\"deviceName\":\"%s\"}",
      card->major * 100 + card->minor * 10, card->driver_version, card->num_sms,
      card->clock_khz, card->memory_clock_khz, card->l2_bytes, card->shared_optin,
      card->shared_reserved, card->blocks_per_sm, card->threads_per_sm,
      card->total_bytes, name);
}

static int make_card(void)
{
  char text[CARD_ROOM];
  int64_t length = describe_card(text) + 1;
  int status = library.create(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &library.card);
  if (status == CUDNN_STATUS_SUCCESS) {
    status = library.set(library.card, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                         CUDNN_TYPE_CHAR, length, text);
  }
  if (status == CUDNN_STATUS_SUCCESS)
    status = library.finalize(library.card);
  return status;
}

/* ---- opening it, once ---- */

static int find_functions(void *opened_library)
{
  library.create = dlsym(opened_library, "cudnnBackendCreateDescriptor");
  library.destroy = dlsym(opened_library, "cudnnBackendDestroyDescriptor");
  library.finalize = dlsym(opened_library, "cudnnBackendFinalize");
  library.set = dlsym(opened_library, "cudnnBackendSetAttribute");
  library.get = dlsym(opened_library, "cudnnBackendGetAttribute");
  library.error_string = dlsym(opened_library, "cudnnGetErrorString");
  library.last_error = dlsym(opened_library, "cudnnGetLastErrorString");
  library.version = dlsym(opened_library, "cudnnGetVersion");
  return library.create && library.destroy && library.finalize && library.set &&
         library.get && library.error_string && library.last_error && library.version;
}

static void open_library(void)
{
  char path[PATH_ROOM];
  find_library(path);
  /* Its own symbols come first, though the virtual library bears the same soname. */
  void *opened_library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (opened_library == NULL) {
    vd_log("cuDNN not opened: %s\n", dlerror());
    vd_unsupported("cudnn heuristics (the library was not found)");
    return;
  }
  if (!find_functions(opened_library)) {
    vd_unsupported("cudnn heuristics (the library lacks the graph API)");
    return;
  }
  int status = make_card();
  if (status != CUDNN_STATUS_SUCCESS) {
    vd_log("cuDNN %zu refused the card described: %d\n", library.version(), status);
    vd_unsupported("cudnn heuristics (they need cuDNN 9.8 or newer)");
    return;
  }
  heuristics_ready = 1;
}

const cudnn_library *real_cudnn(void)
{
  pthread_once(&opened, open_library);
  return heuristics_ready ? &library : NULL;
}

size_t real_cudnn_version(void)
{
  pthread_once(&opened, open_library);
  return library.version != NULL ? library.version() : 0;
}
