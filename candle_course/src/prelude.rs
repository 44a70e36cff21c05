//! Everything a lesson needs, in one `use candle_course::prelude::*;`.

pub use crate::candle_core::{self, D, DType, Device, IndexOp, Module, ModuleT, Tensor, Var};
pub use crate::candle_nn;

// core
pub use crate::device;
pub use crate::error::{Context, Error, ErrorKind, Result};
pub use crate::random::Generator;

// nn
pub use crate::nn::{Activation, Dropout, Init, Linear, Model, Parameters, Scope, Sequential};

// data
pub use crate::data::{Batch, DataLoader, Dataset, Example, RandomSampler, Sampler, SequentialSampler, TensorDataset};

// losses
pub use crate::losses::{CrossEntropy, Loss, cross_entropy};

// metrics
pub use crate::metrics::{Accuracy, Direction, Metric};

// optimizers
pub use crate::optimizers::{
    Adagrad, Adam, AdamW, GradientAccumulator, Lion, NonFinite, Optimizer, ParameterGroup, RmsProp, Sgd, WeightAverage,
    clip_gradient_norm, clip_gradient_norm_each, clip_gradient_value, gradient_norm, l1_penalty, l2_penalty,
};

// schedules
pub use crate::schedules::{
    Anneal, ChainedScheduler, Constant, ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR,
    CyclicMode, ExponentialLR, LambdaLR, LearningRateRangeTest, LinearLR, MultiStepLR, OneCycleLR, PolynomialLR,
    RangeTestCurve, ReduceLROnPlateau, Schedule, SequentialLR, StepLR, ThresholdMode, WarmUp,
};

// checkpoint
pub use crate::checkpoint::{
    Checkpoint, CheckpointFolder, GeneratorStates, Resume, Retention, Snapshot, fold_batch_norm, load_weights,
    read_weights, save_weights, write_weights,
};

// training
pub use crate::training::{Evaluation, evaluate, train_step};
