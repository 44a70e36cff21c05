// cuDNN's interface, as far as candle and this crate call it: convolutions and their gradients by
// their definition.

#include "numbers.h"

#include <algorithm>
#include <cudnn.h>
#include <vector>

struct cudnnContext {
    int unused;
};
struct cudnnTensorStruct {
    Kind kind;
    std::vector<int64_t> sizes, strides;
};
struct cudnnFilterStruct {
    Kind kind;
    std::vector<int64_t> sizes, strides;
};
struct cudnnConvolutionStruct {
    std::vector<int> padding, stride, dilation;
    bool flipped = false;
    int groups = 1;
    cudnnMathType_t math = CUDNN_DEFAULT_MATH;
};
struct cudnnActivationStruct {
    cudnnActivationMode_t mode = CUDNN_ACTIVATION_IDENTITY;
};

static Kind kind_of(cudnnDataType_t type) {
    switch (type) {
        case CUDNN_DATA_FLOAT: return Kind::F32;
        case CUDNN_DATA_DOUBLE: return Kind::F64;
        case CUDNN_DATA_HALF: return Kind::F16;
        case CUDNN_DATA_BFLOAT16: return Kind::BF16;
        default: stand_in_fail("cuDNN's data type %d", type);
    }
}

static std::vector<int64_t> packed(const std::vector<int64_t> &sizes, bool channels_last) {
    std::vector<int64_t> strides(sizes.size());
    int64_t next = 1;
    if (channels_last) next = sizes[1], strides[1] = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
        if (channels_last && i == 1) continue;
        strides[i] = next;
        next *= sizes[i];
    }
    return strides;
}

static double factor(const void *value, Kind kind) {
    return kind == Kind::F64 ? *static_cast<const double *>(value) : *static_cast<const float *>(value);
}

/// Calls `visit` with the places of every product x · w that goes into y.
template <class Visit>
static bool all_products(const cudnnTensorStruct &x, const cudnnFilterStruct &w, const cudnnConvolutionStruct &c,
                         const cudnnTensorStruct &y, Visit visit) {
    if (x.sizes.size() != 4 || c.padding.size() != 2) stand_in_fail("a convolution of %zu dimensions", x.sizes.size());
    const int64_t inputs = w.sizes[1], outputs = w.sizes[0] / c.groups;
    if (x.sizes[1] != inputs * c.groups || y.sizes[1] != w.sizes[0] || x.sizes[0] != y.sizes[0])
        stand_in_fail("a convolution of %ld channels in %d groups by a filter [%ld, %ld]", long(x.sizes[1]), c.groups,
                      long(w.sizes[0]), long(w.sizes[1]));
    for (int d = 0; d < 2; d++) {
        const int64_t expected = (x.sizes[2 + d] + 2 * c.padding[d] - (c.dilation[d] * (w.sizes[2 + d] - 1) + 1)) / c.stride[d] + 1;
        // cuDNN computes the output's size itself, and takes no other.
        if (expected != y.sizes[2 + d]) return false;
    }
    for (int64_t n = 0; n < x.sizes[0]; n++)
        for (int64_t o = 0; o < w.sizes[0]; o++)
            for (int64_t i = 0; i < inputs; i++)
                for (int64_t kh = 0; kh < w.sizes[2]; kh++)
                    for (int64_t kw = 0; kw < w.sizes[3]; kw++) {
                        const int64_t fh = c.flipped ? w.sizes[2] - 1 - kh : kh, fw = c.flipped ? w.sizes[3] - 1 - kw : kw;
                        const int64_t at_w = o * w.strides[0] + i * w.strides[1] + fh * w.strides[2] + fw * w.strides[3];
                        const int64_t channel = o / outputs * inputs + i;
                        for (int64_t oh = 0; oh < y.sizes[2]; oh++) {
                            const int64_t ih = oh * c.stride[0] - c.padding[0] + kh * c.dilation[0];
                            if (ih < 0 || ih >= x.sizes[2]) continue;
                            for (int64_t ow = 0; ow < y.sizes[3]; ow++) {
                                const int64_t iw = ow * c.stride[1] - c.padding[1] + kw * c.dilation[1];
                                if (iw < 0 || iw >= x.sizes[3]) continue;
                                visit(n * x.strides[0] + channel * x.strides[1] + ih * x.strides[2] + iw * x.strides[3], at_w,
                                      n * y.strides[0] + o * y.strides[1] + oh * y.strides[2] + ow * y.strides[3]);
                            }
                        }
                    }
    return true;
}

template <class T> static int64_t extent(const T &tensor) {
    int64_t last = 0;
    for (size_t i = 0; i < tensor.sizes.size(); i++) last += (tensor.sizes[i] - 1) * tensor.strides[i];
    return last + 1;
}

template <class T> static std::vector<double> all(const void *values, const T &tensor) {
    std::vector<double> numbers(extent(tensor));
    for (size_t i = 0; i < numbers.size(); i++) numbers[i] = read_number(values, i, tensor.kind);
    return numbers;
}

/// values = alpha · sums + beta · values, at the tensor's own places.
template <class T> static void store(void *values, const T &tensor, const std::vector<double> &sums, double alpha, double beta) {
    std::vector<int64_t> at(tensor.sizes.size(), 0);
    for (;;) {
        int64_t place = 0;
        for (size_t i = 0; i < at.size(); i++) place += at[i] * tensor.strides[i];
        const double before = beta == 0 ? 0 : beta * read_number(values, place, tensor.kind);
        write_number(values, place, tensor.kind, alpha * sums[place] + before);
        size_t dim = at.size();
        while (dim > 0 && ++at[dim - 1] == tensor.sizes[dim - 1]) at[--dim] = 0;
        if (dim == 0) return;
    }
}

static const size_t WORKSPACE = 1024;

static void check_workspace(const void *workspace, size_t bytes) {
    if (!workspace || bytes < WORKSPACE) stand_in_fail("a convolution's workspace of %zu bytes, %zu were asked for", bytes, WORKSPACE);
}

/// One algorithm of each kind; it wants a workspace, to see that it gets one.
template <class Perf, class Algorithm> static cudnnStatus_t only(Algorithm algorithm, cudnnConvolutionDescriptor_t c, int *count, Perf *results) {
    results[0] = Perf{};
    results[0].algo = algorithm;
    results[0].status = CUDNN_STATUS_SUCCESS;
    results[0].memory = WORKSPACE;
    results[0].determinism = CUDNN_DETERMINISTIC;
    results[0].mathType = c->math;
    *count = 1;
    return CUDNN_STATUS_SUCCESS;
}

extern "C" {

size_t cudnnGetVersion(void) { return 91900; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(cudnnStatus_t status) { return status == CUDNN_STATUS_SUCCESS ? "success" : "the stand-in's error"; }
cudnnStatus_t cudnnCnnVersionCheck(void) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnOpsVersionCheck(void) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) { return *handle = new cudnnContext{0}, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return delete handle, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *tensor) { return *tensor = new cudnnTensorStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensor) { return delete tensor, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t tensor, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
    tensor->kind = kind_of(type);
    tensor->sizes = {n, c, h, w};
    tensor->strides = packed(tensor->sizes, format == CUDNN_TENSOR_NHWC);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int n, int c, int h, int w, int sn, int sc, int sh, int sw) {
    tensor->kind = kind_of(type);
    tensor->sizes = {n, c, h, w};
    tensor->strides = {sn, sc, sh, sw};
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int count, const int sizes[], const int strides[]) {
    tensor->kind = kind_of(type);
    tensor->sizes.assign(sizes, sizes + count);
    tensor->strides.assign(strides, strides + count);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *filter) { return *filter = new cudnnFilterStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filter) { return delete filter, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type, cudnnTensorFormat_t format, int k, int c, int h, int w) {
    filter->kind = kind_of(type);
    filter->sizes = {k, c, h, w};
    filter->strides = packed(filter->sizes, format == CUDNN_TENSOR_NHWC);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type, cudnnTensorFormat_t format, int count, const int sizes[]) {
    filter->kind = kind_of(type);
    filter->sizes.assign(sizes, sizes + count);
    filter->strides = packed(filter->sizes, format == CUDNN_TENSOR_NHWC);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *c) { return *c = new cudnnConvolutionStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t c) { return delete c, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t c, int count, const int padding[], const int stride[], const int dilation[],
                                              cudnnConvolutionMode_t mode, cudnnDataType_t) {
    c->padding.assign(padding, padding + count);
    c->stride.assign(stride, stride + count);
    c->dilation.assign(dilation, dilation + count);
    c->flipped = mode == CUDNN_CONVOLUTION;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t c, int ph, int pw, int u, int v, int dh, int dw,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t type) {
    const int padding[] = {ph, pw}, stride[] = {u, v}, dilation[] = {dh, dw};
    return cudnnSetConvolutionNdDescriptor(c, 2, padding, stride, dilation, mode, type);
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t c, cudnnMathType_t math) { return c->math = math, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t c, int groups) { return c->groups = groups, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreateActivationDescriptor(cudnnActivationDescriptor_t *a) { return *a = new cudnnActivationStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyActivationDescriptor(cudnnActivationDescriptor_t a) { return delete a, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetActivationDescriptor(cudnnActivationDescriptor_t a, cudnnActivationMode_t mode, cudnnNanPropagation_t, double) {
    return a->mode = mode, CUDNN_STATUS_SUCCESS;
}

#define ALGORITHM(name, Perf, algorithm, X, Y, Z)                                                                              \
    cudnnStatus_t name(cudnnHandle_t, X, Y, cudnnConvolutionDescriptor_t c, Z, int, int *count, Perf *results) {               \
        return only(algorithm, c, count, results);                                                                             \
    }
#define ALGORITHMS(direction, ...)                                                                                             \
    ALGORITHM(cudnnGetConvolution##direction##Algorithm_v7, __VA_ARGS__)                                                       \
    ALGORITHM(cudnnFindConvolution##direction##Algorithm, __VA_ARGS__)
ALGORITHMS(Forward, cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, const cudnnTensorDescriptor_t,
           const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t)
ALGORITHMS(BackwardData, cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, const cudnnFilterDescriptor_t,
           const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t)
ALGORITHMS(BackwardFilter, cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, const cudnnTensorDescriptor_t,
           const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t)
#undef ALGORITHMS
#undef ALGORITHM
cudnnStatus_t cudnnGetConvolutionForwardAlgorithmMaxCount(cudnnHandle_t, int *count) { return *count = 8, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithmMaxCount(cudnnHandle_t, int *count) { return *count = 6, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(cudnnHandle_t, int *count) { return *count = 6, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t,
                                                      const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t,
                                                      cudnnConvolutionFwdAlgo_t, size_t *bytes) {
    return *bytes = WORKSPACE, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
                                                           const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t,
                                                           cudnnConvolutionBwdDataAlgo_t, size_t *bytes) {
    return *bytes = WORKSPACE, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t,
                                                             const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t,
                                                             cudnnConvolutionBwdFilterAlgo_t, size_t *bytes) {
    return *bytes = WORKSPACE, CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t x, const void *xs,
                                      const cudnnFilterDescriptor_t w, const void *ws, const cudnnConvolutionDescriptor_t c,
                                      cudnnConvolutionFwdAlgo_t, void *workspace, size_t bytes, const void *beta,
                                      const cudnnTensorDescriptor_t y, void *ys) {
    COUNT_AS("launches: convolutions");
    check_workspace(workspace, bytes);
    if (stand_in_counting()) return CUDNN_STATUS_SUCCESS;
    const auto x_all = all(xs, *x), w_all = all(ws, *w);
    std::vector<double> sums(extent(*y));
    if (!all_products(*x, *w, *c, *y, [&](int64_t ix, int64_t iw, int64_t iy) { sums[iy] += x_all[ix] * w_all[iw]; })) return CUDNN_STATUS_BAD_PARAM;
    store(ys, *y, sums, factor(alpha, y->kind), factor(beta, y->kind));
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t, const void *alpha, const cudnnFilterDescriptor_t w, const void *ws,
                                           const cudnnTensorDescriptor_t y, const void *ys, const cudnnConvolutionDescriptor_t c,
                                           cudnnConvolutionBwdDataAlgo_t, void *workspace, size_t bytes, const void *beta,
                                           const cudnnTensorDescriptor_t x, void *xs) {
    COUNT_AS("launches: convolutions");
    check_workspace(workspace, bytes);
    if (stand_in_counting()) return CUDNN_STATUS_SUCCESS;
    const auto y_all = all(ys, *y), w_all = all(ws, *w);
    std::vector<double> sums(extent(*x));
    if (!all_products(*x, *w, *c, *y, [&](int64_t ix, int64_t iw, int64_t iy) { sums[ix] += y_all[iy] * w_all[iw]; })) return CUDNN_STATUS_BAD_PARAM;
    store(xs, *x, sums, factor(alpha, x->kind), factor(beta, x->kind));
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t x, const void *xs,
                                             const cudnnTensorDescriptor_t y, const void *ys, const cudnnConvolutionDescriptor_t c,
                                             cudnnConvolutionBwdFilterAlgo_t, void *workspace, size_t bytes, const void *beta,
                                             const cudnnFilterDescriptor_t w, void *ws) {
    COUNT_AS("launches: convolutions");
    check_workspace(workspace, bytes);
    if (stand_in_counting()) return CUDNN_STATUS_SUCCESS;
    const auto x_all = all(xs, *x), y_all = all(ys, *y);
    std::vector<double> sums(extent(*w));
    if (!all_products(*x, *w, *c, *y, [&](int64_t ix, int64_t iw, int64_t iy) { sums[iw] += x_all[ix] * y_all[iy]; })) return CUDNN_STATUS_BAD_PARAM;
    store(ws, *w, sums, factor(alpha, w->kind), factor(beta, w->kind));
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardBias(cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t y, const void *ys,
                                           const void *beta, const cudnnTensorDescriptor_t b, void *bs) {
    COUNT_AS("launches: convolutions");
    if (stand_in_counting()) return CUDNN_STATUS_SUCCESS;
    std::vector<double> sums(extent(*b));
    for (int64_t n = 0; n < y->sizes[0]; n++)
        for (int64_t o = 0; o < y->sizes[1]; o++)
            for (int64_t h = 0; h < y->sizes[2]; h++)
                for (int64_t w = 0; w < y->sizes[3]; w++)
                    sums[o * b->strides[1]] +=
                        read_number(ys, n * y->strides[0] + o * y->strides[1] + h * y->strides[2] + w * y->strides[3], y->kind);
    store(bs, *b, sums, factor(alpha, y->kind), factor(beta, y->kind));
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnAddTensor(cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t a, const void *as, const void *beta,
                             const cudnnTensorDescriptor_t y, void *ys) {
    COUNT_AS("launches: convolutions");
    if (stand_in_counting()) return CUDNN_STATUS_SUCCESS;
    const double plus = factor(alpha, y->kind), times = factor(beta, y->kind);
    auto place = [](const cudnnTensorStruct &tensor, int64_t n, int64_t o, int64_t h, int64_t w) {
        const int64_t at[] = {n, o, h, w};
        int64_t sum = 0;
        for (int i = 0; i < 4; i++) sum += tensor.sizes[i] == 1 ? 0 : at[i] * tensor.strides[i];
        return sum;
    };
    for (int64_t n = 0; n < y->sizes[0]; n++)
        for (int64_t o = 0; o < y->sizes[1]; o++)
            for (int64_t h = 0; h < y->sizes[2]; h++)
                for (int64_t w = 0; w < y->sizes[3]; w++) {
                    const int64_t to = place(*y, n, o, h, w);
                    write_number(ys, to, y->kind, plus * read_number(as, place(*a, n, o, h, w), a->kind) + times * read_number(ys, to, y->kind));
                }
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBiasActivationForward(cudnnHandle_t, const void *alpha, const cudnnTensorDescriptor_t x, const void *xs,
                                                    const cudnnFilterDescriptor_t w, const void *ws, const cudnnConvolutionDescriptor_t c,
                                                    cudnnConvolutionFwdAlgo_t algorithm, void *workspace, size_t bytes, const void *beta,
                                                    const cudnnTensorDescriptor_t, const void *zs, const cudnnTensorDescriptor_t b,
                                                    const void *bs, const cudnnActivationDescriptor_t activation,
                                                    const cudnnTensorDescriptor_t y, void *ys) {
    COUNT_AS("launches: convolutions");
    check_workspace(workspace, bytes);
    if (stand_in_counting()) return CUDNN_STATUS_SUCCESS;
    if (factor(beta, y->kind) != 0) stand_in_fail("a convolution that adds another tensor (%p)", zs);
    // As cuDNN has it: without an activation only this algorithm.
    if (activation->mode == CUDNN_ACTIVATION_IDENTITY && algorithm != CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM)
        return CUDNN_STATUS_NOT_SUPPORTED;
    const auto x_all = all(xs, *x), w_all = all(ws, *w);
    std::vector<double> sums(extent(*y));
    if (!all_products(*x, *w, *c, *y, [&](int64_t ix, int64_t iw, int64_t iy) { sums[iy] += x_all[ix] * w_all[iw]; })) return CUDNN_STATUS_BAD_PARAM;
    const double times = factor(alpha, y->kind);
    for (int64_t n = 0; n < y->sizes[0]; n++)
        for (int64_t o = 0; o < y->sizes[1]; o++)
            for (int64_t h = 0; h < y->sizes[2]; h++)
                for (int64_t v = 0; v < y->sizes[3]; v++) {
                    const int64_t place = n * y->strides[0] + o * y->strides[1] + h * y->strides[2] + v * y->strides[3];
                    double value = times * sums[place] + read_number(bs, o * b->strides[1], b->kind);
                    if (activation->mode == CUDNN_ACTIVATION_RELU && value < 0) value = 0;
                    write_number(ys, place, y->kind, value);
                }
    return CUDNN_STATUS_SUCCESS;
}
}
