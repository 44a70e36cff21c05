// cuBLAS's, cuBLASLt's and cuRAND's interfaces, as far as candle and this crate call them. Products
// add in f64.

#include "numbers.h"

#include <cmath>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <curand.h>
#include <random>
#include <vector>

static Kind kind_of(cudaDataType_t type) {
    switch (type) {
        case CUDA_R_32F: return Kind::F32;
        case CUDA_R_64F: return Kind::F64;
        case CUDA_R_16F: return Kind::F16;
        case CUDA_R_16BF: return Kind::BF16;
        default: stand_in_fail("a product of type %d", type);
    }
}

/// Column-major, as cuBLAS has it.
static void product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const void *a, Kind ka, int64_t lda,
                    const void *b, Kind kb, int64_t ldb, double beta, const void *c, int64_t ldc, void *d, Kind kd, int64_t ldd) {
    if (stand_in_counting()) return;
    std::vector<double> column(k), rows(m * k);
    for (int64_t p = 0; p < k; p++)
        for (int64_t i = 0; i < m; i++) rows[p * m + i] = read_number(a, ta ? i * lda + p : p * lda + i, ka);
    std::vector<double> sums(m);
    for (int64_t j = 0; j < n; j++) {
        for (int64_t p = 0; p < k; p++) column[p] = read_number(b, tb ? p * ldb + j : j * ldb + p, kb);
        for (int64_t i = 0; i < m; i++) sums[i] = 0;
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < m; i++) sums[i] += rows[p * m + i] * column[p];
        for (int64_t i = 0; i < m; i++) {
            const double before = beta == 0 ? 0 : beta * read_number(c, j * ldc + i, kd);
            write_number(d, j * ldd + i, kd, alpha * sums[i] + before);
        }
    }
}

static double scalar(const void *value, cublasComputeType_t compute) {
    switch (compute) {
        case CUBLAS_COMPUTE_64F:
        case CUBLAS_COMPUTE_64F_PEDANTIC: return *static_cast<const double *>(value);
        case CUBLAS_COMPUTE_16F:
        case CUBLAS_COMPUTE_16F_PEDANTIC: return __half2float(*static_cast<const __half *>(value));
        default: return *static_cast<const float *>(value);
    }
}

static void *at(const void *values, long long offset, Kind kind) {
    return const_cast<char *>(static_cast<const char *>(values)) + offset * static_cast<long long>(size_of(kind));
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) { return *handle = reinterpret_cast<cublasHandle_t>(new int), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) { return delete reinterpret_cast<int *>(handle), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t *mode) { return *mode = CUBLAS_DEFAULT_MATH, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t, cublasPointerMode_t mode) {
    if (mode != CUBLAS_POINTER_MODE_HOST) stand_in_fail("cuBLAS's factors on the device");
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version) { return *version = 130000, CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType ka, int lda, long long sa,
                                          const void *b, cudaDataType kb, int ldb, long long sb, const void *beta, void *c,
                                          cudaDataType kc, int ldc, long long sc, int count, cublasComputeType_t compute,
                                          cublasGemmAlgo_t) {
    COUNT_AS("launches: products");
    const Kind a_kind = kind_of(ka), b_kind = kind_of(kb), c_kind = kind_of(kc);
    for (int i = 0; i < count; i++) {
        void *to = at(c, i * sc, c_kind);
        product(ta != CUBLAS_OP_N, tb != CUBLAS_OP_N, m, n, k, scalar(alpha, compute), at(a, i * sa, a_kind), a_kind, lda,
                at(b, i * sb, b_kind), b_kind, ldb, scalar(beta, compute), to, ldc, to, c_kind, ldc);
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType ka, int lda, const void *b, cudaDataType kb, int ldb,
                            const void *beta, void *c, cudaDataType kc, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, ka, lda, 0, b, kb, ldb, 0, beta, c, kc, ldc, 0, 1,
                                      compute, algorithm);
}
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                         const float *alpha, const float *a, int lda, long long sa, const float *b, int ldb,
                                         long long sb, const float *beta, float *c, int ldc, long long sc, int count) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, CUDA_R_32F, lda, sa, b, CUDA_R_32F, ldb, sb, beta, c,
                                      CUDA_R_32F, ldc, sc, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                         const double *alpha, const double *a, int lda, long long sa, const double *b, int ldb,
                                         long long sb, const double *beta, double *c, int ldc, long long sc, int count) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, CUDA_R_64F, lda, sa, b, CUDA_R_64F, ldb, sb, beta, c,
                                      CUDA_R_64F, ldc, sc, count, CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT);
}
cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const float *alpha, const float *a, int lda, const float *b, int ldb, const float *beta, float *c, int ldc) {
    return cublasSgemmStridedBatched(handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const double *alpha, const double *a, int lda, const double *b, int ldb, const double *beta, double *c, int ldc) {
    return cublasDgemmStridedBatched(handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}

// cuBLASLt: a description is a list of attributes.

struct LtLayout {
    Kind kind;
    int64_t rows, columns, leading, batch = 1, stride = 0;
};
struct LtProduct {
    cublasComputeType_t compute;
    int ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
    int epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr;
    int bias_type = -1;
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return *handle = reinterpret_cast<cublasLtHandle_t>(new int), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return delete reinterpret_cast<int *>(handle), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *product, cublasComputeType_t compute, cudaDataType_t) {
    auto *made = new LtProduct;
    made->compute = compute;
    return *product = reinterpret_cast<cublasLtMatmulDesc_t>(made), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) { return delete reinterpret_cast<LtProduct *>(product), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t) {
    auto *own = reinterpret_cast<LtProduct *>(product);
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA: own->ta = *static_cast<const int *>(value); break;
        case CUBLASLT_MATMUL_DESC_TRANSB: own->tb = *static_cast<const int *>(value); break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE: own->epilogue = *static_cast<const int *>(value); break;
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: own->bias = *static_cast<void *const *>(value); break;
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: own->bias_type = *static_cast<const int *>(value); break;
        default: stand_in_fail("attribute %d of cublasLtMatmulDesc", attribute);
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading) {
    auto *made = new LtLayout{kind_of(type), int64_t(rows), int64_t(columns), leading};
    return *layout = reinterpret_cast<cublasLtMatrixLayout_t>(made), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return delete reinterpret_cast<LtLayout *>(layout), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const void *value, size_t) {
    auto *own = reinterpret_cast<LtLayout *>(layout);
    switch (attribute) {
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: own->batch = *static_cast<const int32_t *>(value); break;
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: own->stride = *static_cast<const int64_t *>(value); break;
        default: stand_in_fail("attribute %d of cublasLtMatrixLayout", attribute);
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    return *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new int), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return delete reinterpret_cast<int *>(preference), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t *results, int *found) {
    memset(results, 0, sizeof *results);
    return *found = 1, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t) {
    COUNT_AS("launches: products");
    if (stand_in_counting()) return CUBLAS_STATUS_SUCCESS;
    auto *how = reinterpret_cast<LtProduct *>(description);
    auto *la = reinterpret_cast<LtLayout *>(a_layout), *lb = reinterpret_cast<LtLayout *>(b_layout);
    auto *lc = reinterpret_cast<LtLayout *>(c_layout), *ld = reinterpret_cast<LtLayout *>(d_layout);
    const bool ta = how->ta != CUBLAS_OP_N, tb = how->tb != CUBLAS_OP_N;
    const int64_t k = ta ? la->rows : la->columns;
    const int relu = CUBLASLT_EPILOGUE_RELU, biased = CUBLASLT_EPILOGUE_BIAS;
    if (how->epilogue & ~(relu | biased | CUBLASLT_EPILOGUE_DEFAULT)) stand_in_fail("epilogue %d of cublasLtMatmul", how->epilogue);
    for (int64_t i = 0; i < ld->batch; i++) {
        void *to = at(d, i * ld->stride, ld->kind);
        product(ta, tb, ld->rows, ld->columns, k, scalar(alpha, how->compute), at(a, i * la->stride, la->kind), la->kind, la->leading,
                at(b, i * lb->stride, lb->kind), lb->kind, lb->leading, scalar(beta, how->compute),
                at(c, i * lc->stride, lc->kind), lc->leading, to, ld->kind, ld->leading);
        const Kind bias_kind = how->bias_type < 0 ? ld->kind : kind_of(static_cast<cudaDataType_t>(how->bias_type));
        for (int64_t column = 0; column < ld->columns; column++)
            for (int64_t row = 0; row < ld->rows; row++) {
                double value = read_number(to, column * ld->leading + row, ld->kind);
                if (how->epilogue & biased) value += read_number(how->bias, row, bias_kind);
                if (how->epilogue & relu && value < 0) value = 0;
                write_number(to, column * ld->leading + row, ld->kind, value);
            }
    }
    return CUBLAS_STATUS_SUCCESS;
}

// cuRAND, with the standard library's numbers.

curandStatus_t curandCreateGenerator(curandGenerator_t *generator, curandRngType_t) {
    return *generator = reinterpret_cast<curandGenerator_t>(new std::mt19937_64), CURAND_STATUS_SUCCESS;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t generator) {
    return delete reinterpret_cast<std::mt19937_64 *>(generator), CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) {
    return reinterpret_cast<std::mt19937_64 *>(generator)->seed(seed), CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetGeneratorOffset(curandGenerator_t generator, unsigned long long offset) {
    return reinterpret_cast<std::mt19937_64 *>(generator)->discard(offset), CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandGenerateUniform(curandGenerator_t generator, float *values, size_t count) {
    COUNT_AS("launches: random numbers");
    std::uniform_real_distribution<float> numbers(0, 1);
    for (size_t i = 0; i < count && !stand_in_counting(); i++) values[i] = 1.0f - numbers(*reinterpret_cast<std::mt19937_64 *>(generator));
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateUniformDouble(curandGenerator_t generator, double *values, size_t count) {
    COUNT_AS("launches: random numbers");
    std::uniform_real_distribution<double> numbers(0, 1);
    for (size_t i = 0; i < count && !stand_in_counting(); i++) values[i] = 1.0 - numbers(*reinterpret_cast<std::mt19937_64 *>(generator));
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateNormal(curandGenerator_t generator, float *values, size_t count, float mean, float deviation) {
    COUNT_AS("launches: random numbers");
    std::normal_distribution<float> numbers(mean, deviation);
    for (size_t i = 0; i < count && !stand_in_counting(); i++) values[i] = numbers(*reinterpret_cast<std::mt19937_64 *>(generator));
    return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t generator, double *values, size_t count, double mean, double deviation) {
    COUNT_AS("launches: random numbers");
    std::normal_distribution<double> numbers(mean, deviation);
    for (size_t i = 0; i < count && !stand_in_counting(); i++) values[i] = numbers(*reinterpret_cast<std::mt19937_64 *>(generator));
    return CURAND_STATUS_SUCCESS;
}
}
