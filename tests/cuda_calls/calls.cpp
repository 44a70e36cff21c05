// Preloaded before the real driver and libraries, counts a program's calls between
// cuProfilerStart and cuProfilerStop and, with CUDA_CALLS_TIMES, measures what each took on the
// device. Written to the file of CUDA_CALLS as one line of JSON: {name: [calls, milliseconds]}.

#include <cstdio>
#include <cstdlib>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda.h>
#include <cudnn.h>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Call {
    std::string name;
    CUevent begin, end;
};

std::mutex lock;
bool active, timed;
CUstream stream;
std::map<std::string, long> counts;
std::vector<Call> calls;

template <class F> F next(F, const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "no %s behind the counting library\n", name);
        abort();
    }
    return reinterpret_cast<F>(found);
}

/// Counts while it lives, and puts an event before and behind what happens meanwhile.
class Counted {
    bool measured = false;
    Call call;

public:
    Counted(const char *name, bool on_device) {
        std::lock_guard<std::mutex> guard(lock);
        if (!active) return;
        counts[name]++;
        if (!timed || !on_device || !stream) return;
        measured = true;
        call.name = name;
        cuEventCreate(&call.begin, CU_EVENT_DEFAULT);
        cuEventCreate(&call.end, CU_EVENT_DEFAULT);
        cuEventRecord(call.begin, stream);
    }
    ~Counted() {
        if (!measured) return;
        cuEventRecord(call.end, stream);
        std::lock_guard<std::mutex> guard(lock);
        calls.push_back(call);
    }
};

}  // namespace

#define WRAP(type, name, on_device, parameters, arguments)                                         \
    extern "C" type name parameters {                                                              \
        static auto real = next(static_cast<type(*) parameters>(nullptr), #name);                                                  \
        Counted counted(#name, on_device);                                                         \
        return real arguments;                                                                     \
    }

WRAP(CUresult, cuStreamSynchronize, false, (CUstream s), (s))
WRAP(CUresult, cuCtxSynchronize, false, (void), ())
WRAP(CUresult, cuEventSynchronize, false, (CUevent e), (e))
WRAP(CUresult, cuMemFree_v2, false, (CUdeviceptr p), (p))
WRAP(CUresult, cuMemAllocAsync, false, (CUdeviceptr * p, size_t n, CUstream s), (p, n, s))
WRAP(CUresult, cuMemcpyDtoH_v2, false, (void *to, CUdeviceptr from, size_t n), (to, from, n))
WRAP(CUresult, cuMemcpyDtoHAsync_v2, true, (void *to, CUdeviceptr from, size_t n, CUstream s), (to, from, n, s))
WRAP(CUresult, cuMemcpyHtoD_v2, false, (CUdeviceptr to, const void *from, size_t n), (to, from, n))
WRAP(CUresult, cuMemcpyHtoDAsync_v2, true, (CUdeviceptr to, const void *from, size_t n, CUstream s), (to, from, n, s))
WRAP(CUresult, cuMemcpyDtoDAsync_v2, true, (CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s), (to, from, n, s))
WRAP(CUresult, cuMemsetD8Async, true, (CUdeviceptr to, unsigned char v, size_t n, CUstream s), (to, v, n, s))
WRAP(cublasStatus_t, cublasGemmStridedBatchedEx, true,
     (cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void *alpha, const void *a,
      cudaDataType ka, int lda, long long sa, const void *b, cudaDataType kb, int ldb, long long sb, const void *beta, void *c,
      cudaDataType kc, int ldc, long long sc, int count, cublasComputeType_t compute, cublasGemmAlgo_t algorithm),
     (h, ta, tb, m, n, k, alpha, a, ka, lda, sa, b, kb, ldb, sb, beta, c, kc, ldc, sc, count, compute, algorithm))
WRAP(cublasStatus_t, cublasGemmEx, true,
     (cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void *alpha, const void *a,
      cudaDataType ka, int lda, const void *b, cudaDataType kb, int ldb, const void *beta, void *c, cudaDataType kc, int ldc,
      cublasComputeType_t compute, cublasGemmAlgo_t algorithm),
     (h, ta, tb, m, n, k, alpha, a, ka, lda, b, kb, ldb, beta, c, kc, ldc, compute, algorithm))
WRAP(cublasStatus_t, cublasLtMatmul, true,
     (cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha, const void *a, cublasLtMatrixLayout_t la, const void *b,
      cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t lc, void *out, cublasLtMatrixLayout_t ld,
      const cublasLtMatmulAlgo_t *algorithm, void *room, size_t bytes, cudaStream_t s),
     (h, d, alpha, a, la, b, lb, beta, c, lc, out, ld, algorithm, room, bytes, s))
WRAP(cudnnStatus_t, cudnnConvolutionForward, true,
     (cudnnHandle_t h, const void *alpha, const cudnnTensorDescriptor_t x, const void *xs, const cudnnFilterDescriptor_t w,
      const void *ws, const cudnnConvolutionDescriptor_t c, cudnnConvolutionFwdAlgo_t algorithm, void *room, size_t bytes,
      const void *beta, const cudnnTensorDescriptor_t y, void *ys),
     (h, alpha, x, xs, w, ws, c, algorithm, room, bytes, beta, y, ys))
WRAP(cudnnStatus_t, cudnnConvolutionBackwardData, true,
     (cudnnHandle_t h, const void *alpha, const cudnnFilterDescriptor_t w, const void *ws, const cudnnTensorDescriptor_t y,
      const void *ys, const cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdDataAlgo_t algorithm, void *room, size_t bytes,
      const void *beta, const cudnnTensorDescriptor_t x, void *xs),
     (h, alpha, w, ws, y, ys, c, algorithm, room, bytes, beta, x, xs))
WRAP(cudnnStatus_t, cudnnConvolutionBackwardFilter, true,
     (cudnnHandle_t h, const void *alpha, const cudnnTensorDescriptor_t x, const void *xs, const cudnnTensorDescriptor_t y,
      const void *ys, const cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdFilterAlgo_t algorithm, void *room, size_t bytes,
      const void *beta, const cudnnFilterDescriptor_t w, void *ws),
     (h, alpha, x, xs, y, ys, c, algorithm, room, bytes, beta, w, ws))

extern "C" CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                   unsigned bz, unsigned shared, CUstream s, void **arguments, void **extra) {
    static auto real = next(&cuLaunchKernel, "cuLaunchKernel");
    stream = s;
    const char *name = "kernel";
    if (active) cuFuncGetName(&name, function);
    Counted counted(name, true);
    return real(function, gx, gy, gz, bx, by, bz, shared, s, arguments, extra);
}

extern "C" CUresult cuProfilerStart(void) {
    std::lock_guard<std::mutex> guard(lock);
    counts.clear();
    calls.clear();
    timed = getenv("CUDA_CALLS_TIMES") != nullptr;
    active = true;
    return CUDA_SUCCESS;
}

extern "C" CUresult cuProfilerStop(void) {
    {
        std::lock_guard<std::mutex> guard(lock);
        active = false;
    }
    if (timed) cuCtxSynchronize();
    std::map<std::string, double> times;
    for (Call &call : calls) {
        float milliseconds = 0;
        cuEventElapsedTime_v2(&milliseconds, call.begin, call.end);
        times[call.name] += milliseconds;
    }
    const char *path = getenv("CUDA_CALLS");
    FILE *file = path ? fopen(path, "a") : nullptr;
    if (!file) return CUDA_SUCCESS;
    const char *separator = "{";
    for (auto &item : counts) {
        fprintf(file, "%s\"%s\": [%ld, %.6f]", separator, item.first.c_str(), item.second, times[item.first]);
        separator = ", ";
    }
    fputs(*separator == '{' ? "{}\n" : "}\n", file);
    fclose(file);
    return CUDA_SUCCESS;
}
