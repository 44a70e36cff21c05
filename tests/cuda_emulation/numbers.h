// Numbers of any type, read and written as doubles, for products and convolutions that need not be fast.
#pragma once

#include "stand_in.h"

#include <cstdint>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum class Kind { F32, F64, F16, BF16 };

inline size_t size_of(Kind kind) { return kind == Kind::F64 ? 8 : kind == Kind::F32 ? 4 : 2; }

inline double read_number(const void *values, int64_t at, Kind kind) {
    switch (kind) {
        case Kind::F32: return static_cast<const float *>(values)[at];
        case Kind::F64: return static_cast<const double *>(values)[at];
        case Kind::F16: return __half2float(static_cast<const __half *>(values)[at]);
        default: return __bfloat162float(static_cast<const __nv_bfloat16 *>(values)[at]);
    }
}

inline void write_number(void *values, int64_t at, Kind kind, double value) {
    switch (kind) {
        case Kind::F32: static_cast<float *>(values)[at] = static_cast<float>(value); break;
        case Kind::F64: static_cast<double *>(values)[at] = value; break;
        case Kind::F16: static_cast<__half *>(values)[at] = __float2half(static_cast<float>(value)); break;
        default: static_cast<__nv_bfloat16 *>(values)[at] = __float2bfloat16(static_cast<float>(value));
    }
}
