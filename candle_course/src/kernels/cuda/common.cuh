// What every kernel file starts with. Compiled by NVRTC, by nvcc, and, for tests without a GPU, by
// a C++ compiler with stand-ins for CUDA's words: no headers, no inline assembly.
//
// Each file is compiled once for float and once for double: `real` is the type, and KERNEL(name)
// gives the function a name of its own, name_f32 or name_f64.

#ifndef REAL
#define REAL float
#define SUFFIX _f32
#endif
#define JOIN_NAMES(a, b) a##b
#define JOIN(a, b) JOIN_NAMES(a, b)
#define KERNEL(name) extern "C" __global__ void JOIN(name, SUFFIX)

#ifndef COMMON_CUH
#define COMMON_CUH

typedef REAL real;
typedef long long i64;
typedef unsigned short bf16_bits;

// Every index below n, shared out over the whole grid (one-dimensional).
#define FOR_EACH(i, n) \
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)

#ifndef shuffle_xor
#define shuffle_xor(value, lanes) __shfl_xor_sync(0xffffffffu, value, lanes)
#endif

// Divides non-negative numbers; 32 bits are many times faster than 64 where they suffice.
__device__ __forceinline__ i64 quotient(i64 a, i64 b) {
    return ((a | b) >> 31) == 0 ? (i64)((unsigned)a / (unsigned)b) : a / b;
}

// The sum over the 32 threads of a warp, in every one of them; the order is fixed.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int lanes = 16; lanes > 0; lanes >>= 1) value += shuffle_xor(value, lanes);
    return value;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
    for (int lanes = 16; lanes > 0; lanes >>= 1) {
        T other = shuffle_xor(value, lanes);
        value = other > value ? other : value;
    }
    return value;
}

// The sum over a block of a multiple of 32 threads, in every one of them; `shared` has 32 places.
// May be called again with the same places.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) shared[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? shared[lane] : (T)0);
}

template <typename T>
__device__ __forceinline__ T block_max(T value, T* shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) shared[warp] = value;
    __syncthreads();
    return warp_max(shared[lane < warps ? lane : 0]);
}

// To the nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ bf16_bits to_bf16(float value) {
    union { float number; unsigned bits; } u;
    u.number = value;
    if ((u.bits & 0x7fffffffu) > 0x7f800000u) return (bf16_bits)((u.bits >> 16) | 0x40u);
    return (bf16_bits)((u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16);
}

__device__ __forceinline__ float from_bf16(bf16_bits bits) {
    union { float number; unsigned bits; } u;
    u.bits = (unsigned)bits << 16;
    return u.number;
}

#endif
