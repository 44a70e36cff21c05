// The CUDA driver's interface on the CPU: memory is the host's, everything is done when a call
// returns, and kernels are those that `translate.py` made of their sources.

#include "stand_in.h"

#include <cuda.h>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <signal.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

void stand_in_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("stand-in for CUDA: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

bool stand_in_counting() {
    static const bool counting = getenv("CUDA_STAND_IN_COUNTS") != nullptr;
    return counting;
}

static std::mutex counters_lock;
static Counter *counters;

Counter::Counter(const char *name) : name(name) {
    std::lock_guard<std::mutex> guard(counters_lock);
    next = counters;
    counters = this;
}

extern "C" {

CUresult cuProfilerStart(void) {
    std::lock_guard<std::mutex> guard(counters_lock);
    for (Counter *counter = counters; counter; counter = counter->next) counter->count = 0;
    return CUDA_SUCCESS;
}

/// Writes what was called since the start, as one line of JSON, to the file of CUDA_STAND_IN_COUNTS.
CUresult cuProfilerStop(void) {
    const char *path = getenv("CUDA_STAND_IN_COUNTS");
    FILE *file = path ? fopen(path, "a") : nullptr;
    if (!file) return CUDA_SUCCESS;
    std::lock_guard<std::mutex> guard(counters_lock);
    const char *separator = "{";
    for (Counter *counter = counters; counter; counter = counter->next)
        if (counter->count) {
            fprintf(file, "%s\"%s\": %ld", separator, counter->name, counter->count.load());
            separator = ", ";
        }
    fputs(*separator == '{' ? "{}\n" : "}\n", file);
    fclose(file);
    return CUDA_SUCCESS;
}
}

// Memory. Every block ends at a page that may not be touched, so that a kernel that reads or writes
// behind it stops at once; new memory is full of NaN.

namespace {

struct Block {
    size_t bytes, mapped;
    char *map;
};
std::mutex memory_lock;
std::map<uintptr_t, Block> blocks, pinned;
size_t in_use, peak;

void on_fault(int, siginfo_t *info, void *) {
    static char text[256];
    const int length = snprintf(text, sizeof text, "stand-in for CUDA: kernel `%s` touches %p, which is no memory of the device\n",
                                stand_in_running_kernel(), info->si_addr);
    if (write(2, text, length) < 0) _exit(2);
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

CUresult allocate(CUdeviceptr *pointer, size_t bytes) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    const size_t page = 4096, aligned = (bytes + 15) / 16 * 16, body = (aligned + page - 1) / page * page;
    // Counting, untouched memory costs nothing, and is zero.
    void *map = mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    char *start = static_cast<char *>(map);
    mprotect(start + body, page, PROT_NONE);
    char *address = start + body - aligned;
    if (!stand_in_counting()) memset(address, 0xff, aligned);
    std::lock_guard<std::mutex> guard(memory_lock);
    blocks[reinterpret_cast<uintptr_t>(address)] = Block{bytes, body + page, start};
    in_use += bytes;
    if (in_use > peak) peak = in_use;
    *pointer = reinterpret_cast<CUdeviceptr>(address);
    return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr pointer) {
    if (!pointer) return CUDA_SUCCESS;
    std::lock_guard<std::mutex> guard(memory_lock);
    auto found = blocks.find(static_cast<uintptr_t>(pointer));
    if (found == blocks.end()) stand_in_fail("freed %#llx, which was not allocated", pointer);
    munmap(found->second.map, found->second.mapped);
    in_use -= found->second.bytes;
    blocks.erase(found);
    return CUDA_SUCCESS;
}

/// A device's memory, or the program ends.
void *device(CUdeviceptr pointer, size_t bytes, const char *who) {
    std::lock_guard<std::mutex> guard(memory_lock);
    auto found = blocks.upper_bound(static_cast<uintptr_t>(pointer));
    if (found != blocks.begin()) {
        --found;
        if (pointer + bytes <= found->first + found->second.bytes) return reinterpret_cast<void *>(pointer);
    }
    stand_in_fail("%s: %zu bytes at %#llx are not the device's", who, bytes, pointer);
}

bool is_pinned(const void *pointer) {
    std::lock_guard<std::mutex> guard(memory_lock);
    auto found = pinned.upper_bound(reinterpret_cast<uintptr_t>(pointer));
    if (found == pinned.begin()) return false;
    --found;
    return reinterpret_cast<uintptr_t>(pointer) < found->first + found->second.bytes;
}

/// Copies; what makes the host wait is counted as such.
CUresult to_host(void *to, CUdeviceptr from, size_t bytes, bool waits) {
    COUNT_AS("copies to the host");
    if (waits || !is_pinned(to)) COUNT_AS("waits: copies to the host");
    if (bytes) memcpy(to, device(from, bytes, "copy to the host"), bytes);
    return CUDA_SUCCESS;
}

CUresult to_device(CUdeviceptr to, const void *from, size_t bytes) {
    COUNT_AS("copies to the device");
    if (bytes) memcpy(device(to, bytes, "copy to the device"), from, bytes);
    return CUDA_SUCCESS;
}

CUresult on_device(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    COUNT_AS("copies on the device");
    if (bytes) memmove(device(to, bytes, "copy on the device"), device(from, bytes, "copy on the device"), bytes);
    return CUDA_SUCCESS;
}

template <class T> CUresult fill(CUdeviceptr to, T value, size_t count) {
    COUNT_AS("fills");
    if (!count) return CUDA_SUCCESS;
    T *values = static_cast<T *>(device(to, count * sizeof(T), "fill"));
    for (size_t i = 0; i < count; i++) values[i] = value;
    return CUDA_SUCCESS;
}

struct Function {
    std::string name;
    void (*call)(void **);
};
struct Module {
    std::vector<void *> libraries;
    std::map<std::string, Function> functions;
};

// Any address will do for handles.
char context_handle, other_stream;
thread_local CUcontext current_context;
std::atomic<long> next_handle{1};

}  // namespace

extern "C" {

CUresult cuInit(unsigned) {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    if (!stand_in_counting()) sigaction(SIGSEGV, &action, nullptr);
    return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char **text) {
    static thread_local char buffer[64];
    snprintf(buffer, sizeof buffer, "the stand-in's error %d", error);
    return *text = buffer, CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char **text) { return cuGetErrorString(error, text); }

CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    return *device = 0, CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char *name, int length, CUdevice) {
    snprintf(name, length, "stand-in on the CPU");
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice) { return memset(uuid, 7, sizeof *uuid), CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) { return *bytes = size_t(80) << 30, CUDA_SUCCESS; }
CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
    std::lock_guard<std::mutex> guard(memory_lock);
    *total = size_t(80) << 30;
    *available = *total - in_use;
    return CUDA_SUCCESS;
}
/// An H100's numbers.
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 2147483647; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: *value = 65535; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 227 << 10; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = 2048; break;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 50 << 20; break;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1980000; break;
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: *value = 1; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    return *context = reinterpret_cast<CUcontext>(&context_handle), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice, unsigned) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *context) { return *context = current_context, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return current_context = context, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuCtxSetFlags(unsigned) { return CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *value, CUlimit) { return *value = 0, CUDA_SUCCESS; }
CUresult cuCtxDestroy_v2(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) {
    COUNT_AS("waits: cuCtxSynchronize");
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned) {
    return *stream = reinterpret_cast<CUstream>(&other_stream + 16 * next_handle++), CUDA_SUCCESS;
}
CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
CUresult cuStreamDestroy_v2(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) {
    COUNT_AS("waits: cuStreamSynchronize");
    return CUDA_SUCCESS;
}
CUresult cuStreamQuery(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) {
    COUNT_AS("cuStreamWaitEvent");
    return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status) {
    return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
CUresult cuLaunchHostFunc(CUstream, CUhostFn function, void *data) { return function(data), CUDA_SUCCESS; }
CUresult cuEventCreate(CUevent *event, unsigned) {
    COUNT_AS("cuEventCreate");
    return *event = reinterpret_cast<CUevent>(&other_stream + 16 * next_handle++), CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent, CUstream) {
    COUNT_AS("cuEventRecord");
    return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) {
    COUNT_AS("waits: cuEventSynchronize");
    return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent, CUevent) { return *milliseconds = 0, CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(CUevent) { return CUDA_SUCCESS; }

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    COUNT_AS("allocations");
    return allocate(pointer, bytes);
}
CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream) {
    COUNT_AS("allocations");
    return allocate(pointer, bytes);
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmemoryPool, CUstream) {
    COUNT_AS("allocations");
    return allocate(pointer, bytes);
}
/// It waits for the whole device.
CUresult cuMemFree_v2(CUdeviceptr pointer) {
    COUNT_AS("waits: cuMemFree");
    return release(pointer);
}
CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return release(pointer); }
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
    return *pool = reinterpret_cast<CUmemoryPool>(&other_stream), CUDA_SUCCESS;
}
CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void *) { return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void *value) {
    std::lock_guard<std::mutex> guard(memory_lock);
    const bool high = attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH || attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
    *static_cast<cuuint64_t *>(value) = high ? peak : in_use;
    return CUDA_SUCCESS;
}
CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    *pointer = calloc(bytes, 1);
    std::lock_guard<std::mutex> guard(memory_lock);
    pinned[reinterpret_cast<uintptr_t>(*pointer)] = Block{bytes, 0, nullptr};
    return *pointer ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemAllocHost_v2(void **pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }
CUresult cuMemFreeHost(void *pointer) {
    std::lock_guard<std::mutex> guard(memory_lock);
    pinned.erase(reinterpret_cast<uintptr_t>(pointer));
    free(pointer);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) { return to_device(to, from, bytes); }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream) {
    return to_device(to, from, bytes);
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) { return to_host(to, from, bytes, true); }
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream) {
    return to_host(to, from, bytes, false);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return on_device(to, from, bytes); }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream) {
    return on_device(to, from, bytes);
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) { return fill(to, value, count); }
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream) { return fill(to, value, count); }
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream) { return fill(to, value, count); }
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) { return fill(to, value, count); }
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream) { return fill(to, value, count); }

/// An image is PTX of candle's kernels, whose libraries CUDA_EMULATED_KERNELS lists, or what the
/// stand-in for NVRTC made: `//library PATH`.
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    COUNT_AS("cuModuleLoadData");
    auto *loaded = new Module;
    const char *text = static_cast<const char *>(image), *mark = "//library ";
    std::string libraries;
    if (!strncmp(text, mark, strlen(mark))) {
        const char *end = strchr(text, '\n');
        libraries.assign(text + strlen(mark), end ? size_t(end - text) - strlen(mark) : strlen(text) - strlen(mark));
    } else if (const char *list = getenv("CUDA_EMULATED_KERNELS")) {
        libraries = list;
    }
    for (size_t begin = 0; begin < libraries.size() && !stand_in_counting();) {
        const size_t end = std::min(libraries.find(':', begin), libraries.size());
        const std::string path = libraries.substr(begin, end - begin);
        void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) stand_in_fail("%s", dlerror());
        loaded->libraries.push_back(library);
        begin = end + 1;
    }
    *module = reinterpret_cast<CUmodule>(loaded);
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, CUjit_option *, void **) {
    return cuModuleLoadData(module, image);
}
CUresult cuModuleLoad(CUmodule *module, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::string text(1 << 20, '\0');
    text.resize(fread(&text[0], 1, text.size(), file));
    fclose(file);
    return cuModuleLoadData(module, text.c_str());
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    static std::mutex lock;
    std::lock_guard<std::mutex> guard(lock);
    auto *loaded = reinterpret_cast<Module *>(module);
    auto found = loaded->functions.find(name);
    if (found == loaded->functions.end()) {
        void *call = nullptr;
        const std::string symbol = std::string("emulated_kernel_") + name;
        for (void *library : loaded->libraries)
            if (!call) call = dlsym(library, symbol.c_str());
        if (!call && !stand_in_counting()) {
            fprintf(stderr, "stand-in for CUDA: there is no kernel `%s`\n", name);
            return CUDA_ERROR_NOT_FOUND;
        }
        found = loaded->functions.emplace(name, Function{name, reinterpret_cast<void (*)(void **)>(call)}).first;
    }
    *function = reinterpret_cast<CUfunction>(&found->second);
    return CUDA_SUCCESS;
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr *, size_t *, CUmodule, const char *) { return CUDA_ERROR_NOT_FOUND; }
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction) {
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : 0;
    return CUDA_SUCCESS;
}
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction, int threads, size_t) {
    return *blocks = 2048 / (threads > 0 ? threads : 1), CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function, int threads, size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}
CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction, CUoccupancyB2DSize, size_t, int) {
    return *grid = 264, *block = 1024, CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream, void **arguments, void **) {
    auto *kernel = reinterpret_cast<Function *>(function);
    COUNT_AS("launches: kernels");
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535) {
        fprintf(stderr, "stand-in for CUDA: `%s` was launched with a grid of %u × %u × %u\n", kernel->name.c_str(), gx, gy, gz);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (stand_in_counting()) {
        static const bool by_name = getenv("CUDA_STAND_IN_KERNELS") != nullptr;
        if (by_name) {
            static std::mutex lock;
            static std::map<std::string, Counter *> named;
            std::lock_guard<std::mutex> guard(lock);
            Counter *&counter = named[kernel->name];
            if (!counter) counter = new Counter(kernel->name.c_str());
            counter->count++;
        }
        return CUDA_SUCCESS;
    }
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    stand_in_run_grid(kernel->name.c_str(), kernel->call, arguments, grid, block, shared);
    return CUDA_SUCCESS;
}
}
