// What a CUDA kernel expects of its compiler, for an ordinary C++ compiler: the kernel runs on the
// CPU, the threads of a block one after the other up to the next barrier (see `grid.cpp`).
#pragma once

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <vector_types.h>
#include <vector_functions.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

struct EmulatedThread {
    uint3 thread, block;
    dim3 threads, blocks;
    void *shared;
    unsigned char (*slots)[16];
    int *votes;
};

extern "C" {
extern EmulatedThread *emulated_thread;
void emulated_block_barrier();
void emulated_warp_barrier(unsigned mask);
void emulated_trap(const char *what);
}

// From here on, the code is a GPU's.
#define __CUDA_ARCH__ 900

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

#define threadIdx (emulated_thread->thread)
#define blockIdx (emulated_thread->block)
#define blockDim (emulated_thread->threads)
#define gridDim (emulated_thread->blocks)
#define warpSize 32

inline void __syncthreads() { emulated_block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulated_warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap() { emulated_trap("__trap"); }

// Warps.

inline unsigned emulated_linear() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
inline unsigned emulated_lane() { return emulated_linear() & 31; }

template <class T> T emulated_shuffle(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 16, "a shuffled value has 16 bytes at most");
    auto slots = emulated_thread->slots;
    memcpy(slots[emulated_lane()], &value, sizeof(T));
    emulated_warp_barrier(mask);
    memcpy(&value, slots[from & 31], sizeof(T));
    emulated_warp_barrier(mask);
    return value;
}
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const unsigned lane = emulated_lane(), first = lane & ~(width - 1);
    return emulated_shuffle(mask, value, first + (from & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned lane = emulated_lane(), from = lane ^ bits, end = (lane & ~(width - 1)) + width;
    return emulated_shuffle(mask, value, from < end ? from : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = emulated_lane(), end = (lane & ~(width - 1)) + width;
    return emulated_shuffle(mask, value, lane + by < end ? lane + by : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = emulated_lane(), first = lane & ~(width - 1);
    return emulated_shuffle(mask, value, lane >= first + by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned result = 0;
    auto slots = emulated_thread->slots;
    const unsigned bit = predicate ? 1 : 0, lane = emulated_lane();
    memcpy(slots[lane], &bit, sizeof bit);
    emulated_warp_barrier(mask);
    const unsigned first = emulated_linear() & ~31u;
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    for (unsigned other = 0; other < 32 && first + other < count; other++)
        if (mask >> other & 1) {
            unsigned theirs;
            memcpy(&theirs, slots[other], sizeof theirs);
            result |= theirs << other;
        }
    emulated_warp_barrier(mask);
    return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline int __syncthreads_count(int predicate) {
    int *votes = emulated_thread->votes;
    __syncthreads();
    if (emulated_linear() == 0) *votes = 0;
    __syncthreads();
    *votes += predicate != 0;
    __syncthreads();
    return *votes;
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }

// Atomics: the threads of this machine run one after the other.

#define EMULATED_ATOMIC(name, expression)                                                          \
    template <class T, class U> T name(T *address, U value_) {                                     \
        const T value = (T)value_, old = *address;                                                 \
        *address = expression;                                                                     \
        return old;                                                                                \
    }
EMULATED_ATOMIC(atomicAdd, old + value)
EMULATED_ATOMIC(atomicSub, old - value)
EMULATED_ATOMIC(atomicExch, value)
EMULATED_ATOMIC(atomicMax, old < value ? value : old)
EMULATED_ATOMIC(atomicMin, value < old ? value : old)
EMULATED_ATOMIC(atomicOr, old | value)
EMULATED_ATOMIC(atomicAnd, old & value)
EMULATED_ATOMIC(atomicXor, old ^ value)
EMULATED_ATOMIC(atomicInc, (old >= value ? 0 : old + 1))
#undef EMULATED_ATOMIC
template <class T, class U, class V> T atomicCAS(T *address, U compare, V value) {
    const T old = *address;
    if (old == (T)compare) *address = (T)value;
    return old;
}

// Mathematics.

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

template <class T> T emulated_min(T a, T b) { return b < a ? b : a; }
template <class T> T emulated_max(T a, T b) { return a < b ? b : a; }
#define EMULATED_MINMAX(A, B)                                                                      \
    inline std::common_type<A, B>::type min(A a, B b) { return emulated_min<std::common_type<A, B>::type>(a, b); } \
    inline std::common_type<A, B>::type max(A a, B b) { return emulated_max<std::common_type<A, B>::type>(a, b); }
EMULATED_MINMAX(int, int)
EMULATED_MINMAX(unsigned, unsigned)
EMULATED_MINMAX(int, unsigned)
EMULATED_MINMAX(unsigned, int)
EMULATED_MINMAX(long, long)
EMULATED_MINMAX(unsigned long, unsigned long)
EMULATED_MINMAX(long, int)
EMULATED_MINMAX(int, long)
EMULATED_MINMAX(unsigned long, int)
EMULATED_MINMAX(int, unsigned long)
EMULATED_MINMAX(unsigned long, unsigned)
EMULATED_MINMAX(unsigned, unsigned long)
EMULATED_MINMAX(long, unsigned long)
EMULATED_MINMAX(unsigned long, long)
EMULATED_MINMAX(long long, long long)
EMULATED_MINMAX(unsigned long long, unsigned long long)
#undef EMULATED_MINMAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752440f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline void sincospif(float x, float *s, float *c) { sincosf(x * 3.14159265358979323846f, s, c); }
inline float cospif(float x) { return cosf(x * 3.14159265358979323846f); }
inline float sinpif(float x) { return sinf(x * 3.14159265358979323846f); }

inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((uint64_t)x * y >> 32); }
inline int __mulhi(int x, int y) { return (int)((int64_t)x * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class To, class From> To emulated_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "bits of another size");
    To to;
    memcpy(&to, &value, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
template <class T> T __ldg(const T *address) { return *address; }
template <class T> T __ldcs(const T *address) { return *address; }
template <class T> void __stcs(T *address, T value) { *address = value; }

// Half precision, by way of f32.

#define EMULATED_HALF(name, function)                                                              \
    inline __half name(__half x) { return __float2half(function(__half2float(x))); }               \
    inline __nv_bfloat16 name(__nv_bfloat16 x) { return __float2bfloat16(function(__bfloat162float(x))); }
EMULATED_HALF(hexp, expf)
EMULATED_HALF(hlog, logf)
EMULATED_HALF(hsqrt, sqrtf)
EMULATED_HALF(hrsqrt, rsqrtf)
EMULATED_HALF(hsin, sinf)
EMULATED_HALF(hcos, cosf)
EMULATED_HALF(hceil, ceilf)
EMULATED_HALF(hfloor, floorf)
#undef EMULATED_HALF

// How the driver calls a kernel: a list of addresses of its arguments.

template <size_t...> struct EmulatedIndices {};
template <size_t N, size_t... I> struct EmulatedRange : EmulatedRange<N - 1, N - 1, I...> {};
template <size_t... I> struct EmulatedRange<0, I...> { using type = EmulatedIndices<I...>; };
template <class... A, size_t... I>
void emulated_call(void (*kernel)(A...), void **arguments, EmulatedIndices<I...>) {
    (void)arguments;
    kernel(*static_cast<typename std::remove_cv<typename std::remove_reference<A>::type>::type *>(arguments[I])...);
}
template <class... A> void emulated_call(void (*kernel)(A...), void **arguments) {
    emulated_call(kernel, arguments, typename EmulatedRange<sizeof...(A)>::type{});
}
