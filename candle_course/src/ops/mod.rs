//! Differentiable operations: our kernels on the CPU, candle's elsewhere, with the right gradients.
