// For convolutions of ResNet-18 and U-Net: what cuDNN's heuristics put first among the algorithms
// that give the same bits every time, and how long that takes beside the fastest.
//
//     algorithms [BATCH]

#include <cstdio>
#include <cstdlib>
#include <cuda.h>
#include <cudnn.h>

struct Shape {
    int in, out, size, kernel, stride;
};

static void check(cudnnStatus_t status, const char *what) {
    if (status == CUDNN_STATUS_SUCCESS) return;
    fprintf(stderr, "%s: %s\n", what, cudnnGetErrorString(status));
    exit(1);
}
#define CHECK(call) check(call, #call)

/// Prints the choice and the fastest: all measured.
template <class Perf> static void row(const char *what, const Perf *measured, int count, const Perf *guessed, int guesses) {
    const Perf *choice = nullptr, *sure = nullptr, *any = nullptr;
    for (int i = 0; i < guesses && !choice; i++)
        if (guessed[i].status == CUDNN_STATUS_SUCCESS && guessed[i].determinism == CUDNN_DETERMINISTIC)
            for (int j = 0; j < count; j++)
                if (measured[j].algo == guessed[i].algo && measured[j].mathType == guessed[i].mathType && measured[j].status == CUDNN_STATUS_SUCCESS)
                    choice = &measured[j];
    for (int j = 0; j < count; j++) {
        if (measured[j].status != CUDNN_STATUS_SUCCESS) continue;
        if (!any) any = &measured[j];
        if (!sure && measured[j].determinism == CUDNN_DETERMINISTIC) sure = &measured[j];
    }
    printf("  %-8s", what);
    const Perf *all[] = {choice, sure, any};
    const char *names[] = {"heuristics", "fastest reproducible", "fastest"};
    for (int i = 0; i < 3; i++)
        if (all[i]) printf("  %s: %d (math %d) %.0f us %.1f MB;", names[i], int(all[i]->algo), int(all[i]->mathType), all[i]->time * 1e3, all[i]->memory / 1e6);
    printf("\n");
}

int main(int count, char **arguments) {
    const int batch = count > 1 ? atoi(arguments[1]) : 64;
    CUdevice device;
    CUcontext context;
    if (cuInit(0) || cuDeviceGet(&device, 0) || cuDevicePrimaryCtxRetain(&context, device) || cuCtxSetCurrent(context)) return 1;
    cudnnHandle_t handle;
    CHECK(cudnnCreate(&handle));
    const Shape shapes[] = {{3, 64, 32, 3, 1}, {64, 64, 32, 3, 1}, {64, 128, 32, 3, 2}, {128, 128, 16, 3, 1}, {256, 256, 8, 3, 1}, {512, 512, 4, 3, 1}, {64, 128, 32, 1, 2}, {4, 16, 64, 3, 1}, {16, 16, 64, 3, 1}, {32, 32, 32, 3, 1}};
    struct Numbers {
        const char *name;
        cudnnDataType_t type;
        cudnnMathType_t math;
        cudnnTensorFormat_t layout;
    };
    const Numbers kinds[] = {
        {"f32", CUDNN_DATA_FLOAT, CUDNN_FMA_MATH, CUDNN_TENSOR_NCHW},
        {"tf32", CUDNN_DATA_FLOAT, CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_NCHW},
        {"f32, channels last", CUDNN_DATA_FLOAT, CUDNN_FMA_MATH, CUDNN_TENSOR_NHWC},
        {"tf32, channels last", CUDNN_DATA_FLOAT, CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_NHWC},
        {"bf16, channels last", CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_NHWC},
    };
    for (const Shape &s : shapes)
        for (const Numbers &kind : kinds) {
            cudnnTensorDescriptor_t x, y;
            cudnnFilterDescriptor_t w;
            cudnnConvolutionDescriptor_t conv;
            const int padding = s.kernel / 2, after = (s.size + 2 * padding - s.kernel) / s.stride + 1;
            CHECK(cudnnCreateTensorDescriptor(&x));
            CHECK(cudnnCreateTensorDescriptor(&y));
            CHECK(cudnnCreateFilterDescriptor(&w));
            CHECK(cudnnCreateConvolutionDescriptor(&conv));
            CHECK(cudnnSetTensor4dDescriptor(x, kind.layout, kind.type, batch, s.in, s.size, s.size));
            CHECK(cudnnSetTensor4dDescriptor(y, kind.layout, kind.type, batch, s.out, after, after));
            CHECK(cudnnSetFilter4dDescriptor(w, kind.type, kind.layout, s.out, s.in, s.kernel, s.kernel));
            CHECK(cudnnSetConvolution2dDescriptor(conv, padding, padding, s.stride, s.stride, 1, 1, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
            CHECK(cudnnSetConvolutionMathType(conv, kind.math));
            printf("%d -> %d, %d x %d, kernel %d, stride %d, batch %d, %s\n", s.in, s.out, s.size, s.size, s.kernel, s.stride, batch, kind.name);
            int found, guesses;
            cudnnConvolutionFwdAlgoPerf_t forward[16], forward_guess[16];
            if (!cudnnFindConvolutionForwardAlgorithm(handle, x, w, conv, y, 16, &found, forward) &&
                !cudnnGetConvolutionForwardAlgorithm_v7(handle, x, w, conv, y, 16, &guesses, forward_guess))
                row("forward", forward, found, forward_guess, guesses);
            cudnnConvolutionBwdDataAlgoPerf_t data[16], data_guess[16];
            if (!cudnnFindConvolutionBackwardDataAlgorithm(handle, w, y, conv, x, 16, &found, data) &&
                !cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, w, y, conv, x, 16, &guesses, data_guess))
                row("data", data, found, data_guess, guesses);
            cudnnConvolutionBwdFilterAlgoPerf_t filter[16], filter_guess[16];
            if (!cudnnFindConvolutionBackwardFilterAlgorithm(handle, x, y, conv, w, 16, &found, filter) &&
                !cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x, y, conv, w, 16, &guesses, filter_guess))
                row("filter", filter, found, filter_guess, guesses);
            fflush(stdout);
        }
    return 0;
}
