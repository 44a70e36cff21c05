//! Everything a lesson needs, in one `use candle_course::prelude::*;`.

pub use crate::candle_core::backprop::GradStore;
pub use crate::candle_core::{self, D, DType, Device, IndexOp, Module, ModuleT, Tensor, Var};
pub use crate::candle_nn;

// core
pub use crate::device;
pub use crate::error::{Context, Error, ErrorKind, Result};
pub use crate::random::Generator;

// nn
pub use crate::nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d, ConvTranspose2d, Dropout, Flatten,
    Init, LayerNorm, Linear, MaxPool2d, Model, Parameters, Scope, Sequential, Upsample, UpsampleMode,
};
pub use crate::ops;

// data
pub use crate::data::{
    Batch, Cifar10, DataLoader, Dataset, Example, FashionMnist, ImageDataset, Mnist, RandomSampler, Sampler,
    SequentialSampler, Source, TensorDataset,
};

// losses
pub use crate::losses::{
    BinaryCrossEntropy, BinaryFocal, Classes, CrossEntropy, Dice, Focal, FocalTversky, GeneralisedDice, Hinge, Huber,
    Iou, KlDivergence, LogCosh, Loss, LovaszHinge, LovaszSoftmax, Mae, Mse, MultiTask, MultiTaskLoss, Nll, Over,
    Quantile, Reduction, Rmse, SmoothL1, Task, Tversky, WeightedSum, binary_cross_entropy, binary_focal,
    class_balanced_weights, cross_entropy, dice, focal, focal_tversky, generalised_dice, hinge, huber,
    inverse_frequency_weights, iou, kl_divergence, log_cosh, lovasz_hinge, lovasz_softmax, mae, mse, nll, quantile,
    rmse, smooth_l1, tversky,
};

// metrics
pub use crate::metrics::{Accuracy, Direction, Metric};

// optimizers
pub use crate::optimizers::{Adagrad, Adam, AdamW, Lion, NonFinite, Optimizer, ParameterGroup, RmsProp, Sgd};

// schedules
pub use crate::schedules::{Constant, Schedule};

// checkpoint
pub use crate::checkpoint::Checkpoint;

// training
pub use crate::training::callbacks::{EarlyStopping, Progress};
pub use crate::training::diagnosis::{Fit, PredictionReport, Probe, UpdateRatios, Verdict};
pub use crate::training::{
    BackgroundTraining, Callback, EpochRecord, Evaluation, Flow, History, ModelSummary, StepRecord, TrainState,
    Trainer, evaluate, forward_backward, train_step,
};

// plot
pub use crate::plot::{BarChart, Figure, HeatMap, Histogram, ImageGrid, LineChart, Panels, ScatterChart};

// notebook
pub use crate::notebook::{Check, Table};
