/* A `libcuda.so.1` without a GPU, for the calls of `condinst_deploy/runtime/cuda/driver.py`.

What the bindings hand over arrives here as the driver gets it: integers of the right width, addresses, handles. Memory
is the host's, streams run at once, and a launch goes to a function of the test. Captured work is executed, not kept, so
a graph does nothing. A call in a thread without the context is an error, as in the driver. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef void (*OnLaunch)(const char *name, const unsigned *sizes, void *stream, const int64_t *values, int count);

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_PTX = 218, INVALID_CONTEXT = 201, ILLEGAL_STATE = 401,
       NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };
enum { MOST_PARAMETERS = 64, MOST_NAME = 128 };

typedef struct { int capturing, priority; unsigned flags; } Stream;
typedef struct { unsigned flags; int recorded; } Event;
typedef struct { char name[MOST_NAME]; int count; int bytes[MOST_PARAMETERS]; } Function;

static __thread int depth;      /* contexts that this thread pushed */
static int context_, graph_, executable_, alive[7], broken, not_ready, refused = -1;
static OnLaunch on_launch;
enum { MEMORY, PINNED, STREAMS, EVENTS, GRAPHS, EXECUTABLES, MODULES };

static CUresult in_context(void) { return broken ? ILLEGAL_ADDRESS : depth > 0 ? SUCCESS : INVALID_CONTEXT; }
#define ROOM_FOR(kind) do { CUresult r = in_context(); if (r) return r; if (refused == kind) return OUT_OF_MEMORY; } while (0)
#define NEED(condition) do { CUresult r = in_context(); if (r) return r; if (!(condition)) return INVALID_VALUE; } while (0)

/* ---- for tests */
void fake_on_launch(OnLaunch function) { on_launch = function; }
int fake_alive(int kind) { return alive[kind]; }
void fake_break(void) { broken = 1; }
void fake_not_ready(int value) { not_ready = value; }
void fake_refuse(int kind) { refused = kind; } /* nothing of this kind is made; -1: everything is */

/* ---- the driver */
CUresult cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
CUresult cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal ? INVALID_VALUE : SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(void **context, int device) { *context = &context_; return device ? INVALID_VALUE : SUCCESS; }
CUresult cuDeviceGetName(char *name, int size, int device) {
  strncpy(name, "a GPU that is none", size);
  return device ? INVALID_VALUE : SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (device || (attribute != 75 && attribute != 76)) return INVALID_VALUE;
  *value = attribute == 75 ? 9 : 0; /* compute capability 9.0 */
  return SUCCESS;
}
CUresult cuCtxPushCurrent(void *context) {
  if (context != &context_) return INVALID_VALUE;
  depth++;
  return SUCCESS;
}
CUresult cuCtxPopCurrent(void **context) {
  if (depth == 0) return INVALID_CONTEXT;
  depth--;
  *context = &context_;
  return SUCCESS;
}

static CUresult allocated(void **address, size_t size, int kind) {
  NEED(size > 0);
  ROOM_FOR(kind);
  if (size > (size_t)1 << 40) return OUT_OF_MEMORY;
  *address = aligned_alloc(512, (size + 511) / 512 * 512);
  if (!*address) return OUT_OF_MEMORY;
  memset(*address, 0xA5, size);
  __sync_fetch_and_add(&alive[kind], 1);
  return SUCCESS;
}
static CUresult released(void *address, int kind) {
  NEED(address);
  free(address);
  __sync_fetch_and_sub(&alive[kind], 1);
  return SUCCESS;
}
CUresult cuMemAlloc(uint64_t *address, size_t size) { return allocated((void **)address, size, MEMORY); }
CUresult cuMemFree(uint64_t address) { return released((void *)address, MEMORY); }
CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) {
  return flags == 1 ? allocated(address, size, PINNED) : INVALID_VALUE; /* portable: for every context */
}
CUresult cuMemFreeHost(void *address) { return released(address, PINNED); }

CUresult cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority) {
  NEED(flags == 1); /* does not wait for the default stream */
  ROOM_FOR(STREAMS);
  *stream = calloc(1, sizeof(Stream));
  (*stream)->flags = flags;
  (*stream)->priority = priority;
  alive[STREAMS]++;
  return SUCCESS;
}
int fake_priority(Stream *stream) { return stream->priority; }
CUresult cuStreamSynchronize(Stream *stream) { NEED(stream && !stream->capturing); return SUCCESS; }
CUresult cuStreamDestroy(Stream *stream) { return released(stream, STREAMS); }
CUresult cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) { NEED(stream && event->recorded && !flags); return SUCCESS; }

CUresult cuEventCreate(Event **event, unsigned flags) {
  NEED(flags == 3); /* no timing, waiters sleep */
  ROOM_FOR(EVENTS);
  *event = calloc(1, sizeof(Event));
  __sync_fetch_and_add(&alive[EVENTS], 1);
  return SUCCESS;
}
CUresult cuEventDestroy(Event *event) { return released(event, EVENTS); }
CUresult cuEventRecord(Event *event, Stream *stream) { NEED(event && stream); event->recorded = 1; return SUCCESS; }
CUresult cuEventQuery(Event *event) { NEED(event->recorded); return not_ready ? NOT_READY : SUCCESS; }
CUresult cuEventSynchronize(Event *event) { NEED(event->recorded); return SUCCESS; }

static CUresult copied(void *target, const void *source, size_t size, Stream *stream) {
  NEED(target && source && size && stream);
  memmove(target, source, size);
  return SUCCESS;
}
CUresult cuMemcpyHtoDAsync(uint64_t target, const void *source, size_t size, Stream *stream) { return copied((void *)target, source, size, stream); }
CUresult cuMemcpyDtoHAsync(void *target, uint64_t source, size_t size, Stream *stream) { return copied(target, (void *)source, size, stream); }
CUresult cuMemcpyDtoDAsync(uint64_t target, uint64_t source, size_t size, Stream *stream) { return copied((void *)target, (void *)source, size, stream); }
CUresult cuMemsetD8Async(uint64_t target, unsigned char value, size_t size, Stream *stream) {
  NEED(target && size && stream);
  memset((void *)target, value, size);
  return SUCCESS;
}

CUresult cuStreamBeginCapture(Stream *stream, int mode) {
  NEED(stream && mode == 1); /* other threads may go on */
  ROOM_FOR(GRAPHS);
  stream->capturing = 1;
  return SUCCESS;
}
CUresult cuStreamEndCapture(Stream *stream, void **graph) {
  NEED(stream);
  *graph = NULL;
  if (!stream->capturing) return ILLEGAL_STATE;
  stream->capturing = 0;
  *graph = &graph_;
  alive[GRAPHS]++;
  return SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  NEED(graph == &graph_ && !flags);
  ROOM_FOR(EXECUTABLES);
  *executable = &executable_;
  alive[EXECUTABLES]++;
  return SUCCESS;
}
CUresult cuGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
  return cuGraphInstantiateWithFlags(executable, graph, flags);
}
CUresult cuGraphDestroy(void *graph) { NEED(graph == &graph_); alive[GRAPHS]--; return SUCCESS; }
CUresult cuGraphLaunch(void *executable, Stream *stream) { NEED(executable == &executable_ && stream); return SUCCESS; }
CUresult cuGraphExecDestroy(void *executable) { NEED(executable == &executable_); alive[EXECUTABLES]--; return SUCCESS; }

/* A module is a copy of its PTX; a kernel's parameters are read from it. */
CUresult cuModuleLoadData(char **module, const char *ptx) {
  NEED(ptx);
  ROOM_FOR(MODULES);
  if (!strstr(ptx, ".entry")) return INVALID_PTX;
  *module = strdup(ptx);
  alive[MODULES]++;
  return SUCCESS;
}
CUresult cuModuleUnload(char *module) { return released(module, MODULES); }
CUresult cuModuleGetFunction(Function **function, const char *module, const char *name) {
  NEED(module && strlen(name) < MOST_NAME);
  const char *place = strstr(module, ".entry "), *end, *parameter;
  size_t length = strlen(name);
  if (!place || strncmp(place + 7, name, length) || place[7 + length] != '(') return NOT_FOUND;
  Function *made = calloc(1, sizeof(Function));
  strcpy(made->name, name);
  end = strchr(place, ')');
  for (parameter = strstr(place, ".param ."); parameter && parameter < end; parameter = strstr(parameter + 1, ".param .")) {
    if (made->count == MOST_PARAMETERS) return INVALID_VALUE;
    made->bytes[made->count++] = atoi(parameter + 9) / 8; /* behind ".param .u" */
  }
  *function = made;
  return SUCCESS;
}
CUresult cuLaunchKernel(Function *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, Stream *stream, void **parameters, void **extra) {
  int64_t values[MOST_PARAMETERS];
  unsigned sizes[] = {x, y, z, bx, by, bz, shared};
  int i;
  NEED(function && stream && x && y && z && bx && by && bz && !extra && on_launch);
  for (i = 0; i < function->count; i++) {
    int32_t narrow;
    if (function->bytes[i] == 8) memcpy(&values[i], parameters[i], 8);
    else if (function->bytes[i] == 4) { memcpy(&narrow, parameters[i], 4); values[i] = narrow; }
    else return INVALID_VALUE;
  }
  on_launch(function->name, sizes, stream, values, function->count);
  return SUCCESS;
}

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
  static void *self;
  (void)version, (void)flags;
  if (!self) {
    Dl_info info;
    dladdr((void *)cuInit, &info);
    self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }
  *function = dlsym(self, name);
  if (found) *found = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}
