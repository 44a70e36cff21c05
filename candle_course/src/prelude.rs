//! Everything a lesson needs, in one `use candle_course::prelude::*;`.

pub use crate::candle_core::backprop::GradStore;
pub use crate::candle_core::{self, D, DType, Device, IndexOp, Module, ModuleT, Tensor, Var};
pub use crate::candle_nn;

// core
pub use crate::device;
pub use crate::error::{Context, Error, ErrorKind, Result};
pub use crate::language::set_language;
pub use crate::random::Generator;
pub use crate::stateful::{State, Stateful};

// nn
pub use crate::nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Bridge, Conv2d, ConvTranspose2d, Dropout, Fan,
    Flatten, GroupNorm, Gru, Init, LayerNorm, Linear, Lstm, MaxPool2d, Model, Nonlinearity, Parameters, Recompute,
    RecurrentOutput, ResNet18, Rnn, Scope, Sequential, Upsample, UpsampleMode,
};
pub use crate::ops;

// data
pub use crate::data::{
    Batch, BatchPosition, Batches, Cifar10, ClassMap, ColorJitter, ConcatDataset, DataLoader, Dataset, EuroSat,
    Example, FashionMnist, Georeference, ImageDataset, ImageFolder, LoaderStatistics, MappedDataset, MixUp, Mnist,
    Normalize, RandomAffine, RandomCrop, RandomErasing, RandomHorizontalFlip, RandomQuarterTurn, RandomSampler,
    RandomVerticalFlip, Sampler, Satellite, SatelliteTarget, Scene, SceneTiles, SequentialSampler, Smote, Source,
    SpectralIndex, Split, StratifiedBatchSampler, Subset, SubsetSampler, TensorDataset, Transform,
    WeightedRandomSampler, class_balanced_weights, class_counts, class_weights, example_weights, false_color,
    imbalance, long_tail, ndvi, oversample, true_color, undersample,
};

#[cfg(feature = "hub")]
pub use crate::data::{HubImages, HubSplit};

// losses
pub use crate::losses::{
    BinaryCrossEntropy, BinaryFocal, Classes, CrossEntropy, Dice, Focal, FocalTversky, GeneralisedDice, Hinge, Huber,
    Iou, KlDivergence, LogCosh, Loss, LovaszHinge, LovaszSoftmax, Mae, MeanOf, Mse, MultiTask, MultiTaskLoss, Nll,
    Over, Quantile, Reduction, Rmse, RunningMean, SmoothL1, Task, Tversky, WeightedSum, binary_cross_entropy,
    binary_focal, cross_entropy, dice, focal, focal_tversky, generalised_dice, hinge, huber, iou, kl_divergence,
    log_cosh, lovasz_hinge, lovasz_softmax, mae, mse, nll, quantile, rmse, smooth_l1, tversky,
};

// metrics
pub use crate::metrics::{
    Accuracy, Average, AveragePrecision, BalancedAccuracy, Boxes, CalibrationBin, CalibrationError, ClassScores,
    ClassificationReport, CohenKappa, ConfusionMatrix, Direction, FBeta, LogLoss, Matthews, MaximumError,
    MeanAbsoluteError, MeanAbsolutePercentageError, MeanAveragePrecision, MeanDice, MeanIou, MeanSquaredError, Metric,
    PixelAccuracy, Precision, PrecisionRecallCurve, PrecisionSummary, R2, Recall, RegressionSummary, RocAuc,
    RocAucOneVsRest, RocCurve, RootMeanSquaredError, Specificity, TopK, Undefined, accuracy, average_precision,
    box_area, box_iou, calibration_error, classification_report, confusion_matrix, generalized_box_iou, log_loss,
    match_boxes, maximum_error, mean_absolute_percentage_error, mean_average_precision, precision_recall_curve,
    r2_score, roc_auc, roc_auc_one_vs_rest, roc_curve, top_k_accuracy,
};

// optimizers
pub use crate::optimizers::{
    Adagrad, Adam, AdamW, GradientAccumulator, Lion, NonFinite, Optimizer, ParameterGroup, RmsProp, Sgd, WeightAverage,
    clip_gradient_norm, clip_gradient_norm_each, clip_gradient_value, gradient_norm, l1_penalty, l2_penalty,
};

// schedules
pub use crate::schedules::{
    Adaptive, Anneal, ChainedScheduler, ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR,
    CyclicMode, ExponentialLR, LinearLR, MultiStepLR, OneCycleLR, PlotSchedule, PolynomialLR, ReduceLROnPlateau,
    Schedule, SequentialLR, StepLR, ThresholdMode, WarmUp,
};

// checkpoint
pub use crate::checkpoint::{
    CheckpointFolder, GeneratorStates, LoadReport, Resume, Retention, Snapshot, WeightLoading, fold_batch_norm,
    fold_batch_norm_transposed, load_weights, read_weights, save_weights, write_weights,
};

// hub
#[cfg(feature = "hub")]
pub use crate::hub::HubRepository;

// onnx
pub use crate::onnx::OnnxExport;

// inference
pub use crate::inference::Inference;

// training
pub use crate::training::callbacks::{Checkpoints, EarlyStopping, JsonLines, Progress, TensorBoard};
pub use crate::training::diagnosis::{Fit, PredictionReport, Probe, UpdateRatios, Verdict};
pub use crate::training::{
    BackgroundTraining, Callback, EpochRecord, Evaluation, Flow, History, LearningRateRangeTest, ModelSummary,
    Predictions, RangeTestCurve, StepEvaluation, StepRecord, StepTimes, TrainState, Trainer, Training, evaluate,
    forward_backward, predict, train_step,
};

// distributed
pub use crate::distributed::{Communicator, LocalCommunicator};

// plot
pub use crate::plot::{BarChart, Figure, HeatMap, Histogram, ImageGrid, LineChart, Panels, ScatterChart};

// notebook
pub use crate::notebook::{Check, Table};

// tensorboard
pub use crate::tensorboard::{HyperParameters, Scalars, SummaryWriter};
