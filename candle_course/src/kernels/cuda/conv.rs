//! Convolutions by cuDNN, with bias and ReLU beside it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::PathBuf;

use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{Error, Result, Tensor};
use half::bf16;

use super::compile::{cache_file, store};
use super::gemm::{Factors, Masked, from_bf16, to_bf16};
use super::layout::{from_channels_last, to_channels_last};
use super::linear::Rounded;
use super::norm::{self, masked};
use super::runtime::{DeviceFloat, Input, address, address_or_null, alloc, device_of, tensor, value};
use crate::kernels::conv::Geometry;
use crate::kernels::losses::for_float;
use crate::kernels::node::{Gradients, Value, keeping, node};
use crate::precision::Precision;

/// What of a convolution is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Forward,
    Data,
    Filter,
}

/// The numbers that cuDNN multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Numbers {
    F32,
    Tf32,
    F64,
    /// In the order of the tensors.
    Bf16,
    /// With the channels last, as tensor cores take them: cuDNN would turn every operand itself.
    Bf16ChannelsLast,
}

impl Numbers {
    fn of<T: DeviceFloat>(device: &CudaDevice, precision: Precision, g: &Geometry) -> Self {
        // Where cuDNN lacks a part for channels last, it turns the operands after all.
        let last = |part| Plan::of(device, g, part, Self::Bf16ChannelsLast).is_ok();
        match Factors::of::<T>(precision) {
            _ if size_of::<T>() == 8 => Self::F64,
            Factors::Full => Self::F32,
            Factors::Tf32 => Self::Tf32,
            Factors::Bf16
                if g.groups == 1
                    && g.in_channels.is_multiple_of(8)
                    && g.out_channels.is_multiple_of(8)
                    && [Part::Forward, Part::Data, Part::Filter].into_iter().all(last) =>
            {
                Self::Bf16ChannelsLast
            }
            Factors::Bf16 => Self::Bf16,
        }
    }

    fn data_type(self) -> sys::cudnnDataType_t {
        match self {
            Self::F32 | Self::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Self::F64 => sys::cudnnDataType_t::CUDNN_DATA_DOUBLE,
            Self::Bf16 | Self::Bf16ChannelsLast => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        }
    }

    fn layout(self) -> sys::cudnnTensorFormat_t {
        match self {
            Self::Bf16ChannelsLast => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
            _ => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
        }
    }

    fn is_rounded(self) -> bool {
        matches!(self, Self::Bf16 | Self::Bf16ChannelsLast)
    }
}

/// A call, decided on once per shape: descriptors, algorithm, workspace. Never freed: as many as a
/// program has layers and batch sizes, and cuDNN may be gone before a thread's last destructor.
#[derive(Clone, Copy)]
struct Plan {
    handle: sys::cudnnHandle_t,
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
    algorithm: Algorithm,
    workspace: usize,
}

#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Data(sys::cudnnConvolutionBwdDataAlgo_t),
    Filter(sys::cudnnConvolutionBwdFilterAlgo_t),
}

type PlanKey = (DeviceId, Part, Numbers, [usize; 14]);

thread_local! {
    // cuDNN's handles belong to one thread.
    static HANDLES: RefCell<HashMap<DeviceId, sys::cudnnHandle_t>> = RefCell::default();
    static PLANS: RefCell<HashMap<PlanKey, std::result::Result<Plan, String>>> = RefCell::default();
}

fn handle(device: &CudaDevice) -> Result<sys::cudnnHandle_t> {
    if let Some(handle) = HANDLES.with_borrow(|handles| handles.get(&device.id()).copied()) {
        return Ok(handle);
    }
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    let handle = result::create_handle().map_err(Error::wrap)?;
    // SAFETY: the stream is the device's, which outlives what runs on it.
    unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(Error::wrap)?;
    HANDLES.with_borrow_mut(|handles| handles.insert(device.id(), handle));
    Ok(handle)
}

fn sizes(g: &Geometry) -> [usize; 14] {
    let pairs = [g.input, g.kernel, g.stride, g.padding, g.dilation];
    let mut sizes = [g.batch, g.in_channels, g.out_channels, g.groups, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (i, (vertical, horizontal)) in pairs.into_iter().enumerate() {
        sizes[4 + 2 * i] = vertical;
        sizes[5 + 2 * i] = horizontal;
    }
    sizes
}

/// Whether cuDNN takes these sizes: it counts in 32 bits, and knows no output padding.
pub fn fits(g: &Geometry) -> bool {
    let small = |sizes: &[usize]| {
        let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        product.is_some_and(|product| product < i32::MAX as usize)
    };
    // A transposed convolution may be given more rows than the convolution would look at.
    let covered = |input: usize, padding: usize, dilation: usize, kernel: usize, stride: usize| {
        (input + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1
    };
    let output = (
        covered(g.input.0, g.padding.0, g.dilation.0, g.kernel.0, g.stride.0),
        covered(g.input.1, g.padding.1, g.dilation.1, g.kernel.1, g.stride.1),
    );
    sizes(g).iter().all(|&size| small(&[size]))
        && output == g.output
        && small(&[g.batch, g.in_channels, g.input.0, g.input.1])
        && small(&[g.batch, g.out_channels, g.output.0, g.output.1])
        && g.in_channels.max(g.out_channels) <= 65_535
}

/// Multiplications from which on it pays to measure the algorithms.
const LARGE: usize = 1 << 24;

/// Algorithms that give the same bits every time, and sums as exact as the definition's (not by
/// Fourier transforms).
mod allowed {
    use super::sys::cudnnConvolutionBwdDataAlgo_t as Data;
    use super::sys::cudnnConvolutionBwdFilterAlgo_t as Filter;
    use super::sys::cudnnConvolutionFwdAlgo_t as Forward;

    pub const FORWARD: [Forward; 6] = [
        Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
        Forward::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
        Forward::CUDNN_CONVOLUTION_FWD_ALGO_GEMM,
        Forward::CUDNN_CONVOLUTION_FWD_ALGO_DIRECT,
        Forward::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD,
        Forward::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED,
    ];
    pub const DATA: [Data; 3] = [
        Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
        Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD,
        Data::CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD_NONFUSED,
    ];
    pub const FILTER: [Filter; 3] = [
        Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
        Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD,
        Filter::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_WINOGRAD_NONFUSED,
    ];
}

/// The algorithm for a part of a convolution, and its kind of arithmetic.
///
/// Large ones are measured, once per machine: the choice is written down, because another choice
/// would give other bits, and a resumed training has to give the same. Where nothing can be written
/// down, and for small ones, cuDNN's guess is taken.
macro_rules! choose {
    ($file:expr, $allowed:expr, $kind:ty, $count:literal, $measure:path, $guess:path, [$($argument:expr),*]) => {{
        let mut found: [$kind; $count] = std::mem::zeroed();
        let mut count = 0;
        let first = |found: &[$kind; $count], count: i32| {
            let known = &found[..(count.max(0) as usize).min($count)];
            let good = known.iter().find(|one| {
                one.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                    && one.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                    && $allowed.contains(&one.algo)
            });
            good.map(|one| (one.algo, one.mathType))
        };
        let written = $file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).and_then(|text| {
            let (algorithm, math) = text.trim().split_once(' ')?;
            let (algorithm, math): (u32, u32) = (algorithm.parse().ok()?, math.parse().ok()?);
            let algorithm = $allowed.into_iter().find(|&one| one as u32 == algorithm)?;
            Some((algorithm, MATH.into_iter().find(|&one| one as u32 == math)?))
        });
        let measured = match (&written, $file) {
            (None, Some(file)) => {
                let status = $measure($($argument,)* $count, &mut count, found.as_mut_ptr());
                let choice = status.result().ok().and_then(|()| first(&found, count));
                choice.filter(|(algorithm, math)| {
                    let line = format!("{} {}\n", *algorithm as u32, *math as u32);
                    store(file, line.as_bytes()).is_ok()
                })
            }
            _ => None,
        };
        match written.or(measured) {
            Some(choice) => choice,
            None => {
                $guess($($argument,)* $count, &mut count, found.as_mut_ptr()).result().map_err(Error::wrap)?;
                let none = "cuDNN has no reproducible algorithm for this convolution";
                first(&found, count).ok_or_else(|| Error::Msg(none.to_owned()))?
            }
        }
    }};
}

const MATH: [sys::cudnnMathType_t; 4] = [
    sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
    sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
    sys::cudnnMathType_t::CUDNN_FMA_MATH,
];

/// Where the choice of an algorithm is written down, if it is worth measuring.
fn choice_file(device: &CudaDevice, g: &Geometry, part: Part, numbers: Numbers) -> Option<PathBuf> {
    let multiplications = g.batch.saturating_mul(g.out_channels).saturating_mul(g.pixels()).saturating_mul(g.depth());
    if multiplications < LARGE {
        return None;
    }
    let name = device.cuda_stream().context().name().ok()?;
    let what = format!("{part:?} {numbers:?} {:?}", sizes(g));
    cache_file("convolutions", "choice", "txt", &[&name, &result::get_version().to_string(), &what])
}

impl Plan {
    fn of(device: &CudaDevice, g: &Geometry, part: Part, numbers: Numbers) -> Result<Self> {
        let key = (device.id(), part, numbers, sizes(g));
        if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&key).cloned()) {
            return plan.map_err(Error::Msg);
        }
        let plan = Self::decide(device, g, part, numbers)
            .map_err(|error| format!("cuDNN cannot do the convolution {g:?} ({part:?}, {numbers:?}): {error}"));
        PLANS.with_borrow_mut(|plans| plans.insert(key, plan.clone()));
        plan.map_err(Error::Msg)
    }

    fn decide(device: &CudaDevice, g: &Geometry, part: Part, numbers: Numbers) -> Result<Self> {
        let handle = handle(device)?;
        let data_type = numbers.data_type();
        let layout = numbers.layout();
        let size = |sizes: [usize; 4]| sizes.map(|size| size as i32);
        let (x, w, y) = (
            result::create_tensor_descriptor().map_err(Error::wrap)?,
            result::create_filter_descriptor().map_err(Error::wrap)?,
            result::create_tensor_descriptor().map_err(Error::wrap)?,
        );
        let conv = result::create_convolution_descriptor().map_err(Error::wrap)?;
        let of_sums = if numbers == Numbers::F64 { data_type } else { sys::cudnnDataType_t::CUDNN_DATA_FLOAT };
        let math = match numbers {
            Numbers::F32 | Numbers::F64 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: fresh descriptors, sizes that were checked to fit.
        unsafe {
            let dims = size([g.batch, g.in_channels, g.input.0, g.input.1]);
            result::set_tensor4d_descriptor(x, layout, data_type, dims).map_err(Error::wrap)?;
            let dims = size([g.batch, g.out_channels, g.output.0, g.output.1]);
            result::set_tensor4d_descriptor(y, layout, data_type, dims).map_err(Error::wrap)?;
            let dims = size([g.out_channels, g.group_in(), g.kernel.0, g.kernel.1]);
            result::set_filter4d_descriptor(w, data_type, layout, dims).map_err(Error::wrap)?;
            let pair = |pair: (usize, usize)| (pair.0 as i32, pair.1 as i32);
            let ((pad_h, pad_w), (stride_h, stride_w)) = (pair(g.padding), pair(g.stride));
            let (dilation_h, dilation_w) = pair(g.dilation);
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
            result::set_convolution2d_descriptor(
                conv, pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w, mode, of_sums,
            )
            .map_err(Error::wrap)?;
            result::set_convolution_math_type(conv, math).map_err(Error::wrap)?;
            result::set_convolution_group_count(conv, g.groups as i32).map_err(Error::wrap)?;
        }
        let file = choice_file(device, g, part, numbers);
        let file = file.as_ref();
        // Exact products stay exact, whatever the list says.
        let set = |found| {
            let math = if math == sys::cudnnMathType_t::CUDNN_FMA_MATH { math } else { found };
            // SAFETY: the descriptor is this function's.
            unsafe { result::set_convolution_math_type(conv, math) }.map_err(Error::wrap)
        };
        // SAFETY: plain structures of numbers, filled by cuDNN; as many as it is told there are.
        let (algorithm, workspace) = unsafe {
            match part {
                Part::Forward => {
                    let (algorithm, found) = choose!(
                        file,
                        allowed::FORWARD,
                        sys::cudnnConvolutionFwdAlgoPerf_t,
                        8,
                        sys::cudnnFindConvolutionForwardAlgorithm,
                        sys::cudnnGetConvolutionForwardAlgorithm_v7,
                        [handle, x, w, conv, y]
                    );
                    set(found)?;
                    let size = result::get_convolution_forward_workspace_size(handle, x, w, conv, y, algorithm);
                    (Algorithm::Forward(algorithm), size.map_err(Error::wrap)?)
                }
                Part::Data => {
                    let (algorithm, found) = choose!(
                        file,
                        allowed::DATA,
                        sys::cudnnConvolutionBwdDataAlgoPerf_t,
                        6,
                        sys::cudnnFindConvolutionBackwardDataAlgorithm,
                        sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
                        [handle, w, y, conv, x]
                    );
                    set(found)?;
                    let size = result::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, algorithm);
                    (Algorithm::Data(algorithm), size.map_err(Error::wrap)?)
                }
                Part::Filter => {
                    let (algorithm, found) = choose!(
                        file,
                        allowed::FILTER,
                        sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                        7,
                        sys::cudnnFindConvolutionBackwardFilterAlgorithm,
                        sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
                        [handle, x, y, conv, w]
                    );
                    set(found)?;
                    let size = result::get_convolution_backward_filter_workspace_size(handle, x, y, conv, w, algorithm);
                    (Algorithm::Filter(algorithm), size.map_err(Error::wrap)?)
                }
            }
        };
        Ok(Self { handle, x, w, y, conv, algorithm, workspace })
    }
}

/// Runs one part of the convolution `g`. `[x, w, y]` are the addresses of image, weight and
/// output (or their gradients); the one that the part computes is written.
fn run(device: &CudaDevice, g: &Geometry, part: Part, numbers: Numbers, [x, w, y]: [u64; 3]) -> Result<()> {
    let plan = Plan::of(device, g, part, numbers)?;
    let workspace = alloc::<u8>(device, plan.workspace.max(1))?;
    let room = address(&workspace) as *mut c_void;
    let (wide, narrow) = ([1f64, 0.0], [1f32, 0.0]);
    let scale = |i: usize| -> *const c_void {
        if numbers == Numbers::F64 { (&raw const wide[i]).cast() } else { (&raw const narrow[i]).cast() }
    };
    let (one, zero) = (scale(0), scale(1));
    let Plan { handle, x: x_is, w: w_is, y: y_is, conv, workspace: size, .. } = plan;
    let (from_x, from_w, from_y) = (x as *const c_void, w as *const c_void, y as *const c_void);
    // SAFETY: the addresses are of device memory of the descriptors' sizes and types, as are the
    // workspace's; all work is in the device's stream.
    unsafe {
        match plan.algorithm {
            Algorithm::Forward(algorithm) => result::convolution_forward(
                handle,
                one,
                x_is,
                from_x,
                w_is,
                from_w,
                conv,
                algorithm,
                room,
                size,
                zero,
                y_is,
                y as *mut c_void,
            ),
            Algorithm::Data(algorithm) => result::convolution_backward_data(
                handle,
                one,
                w_is,
                from_w,
                y_is,
                from_y,
                conv,
                algorithm,
                room,
                size,
                zero,
                x_is,
                x as *mut c_void,
            ),
            Algorithm::Filter(algorithm) => result::convolution_backward_filter(
                handle,
                one,
                x_is,
                from_x,
                y_is,
                from_y,
                conv,
                algorithm,
                room,
                size,
                zero,
                w_is,
                w as *mut c_void,
            ),
        }
    }
    .map_err(|error| Error::Msg(format!("cuDNN failed at the convolution {g:?} ({part:?}, {numbers:?}): {error}")))
}

/// The sizes of x, weight and y as `[batch, channels, plane]`.
fn dims(g: &Geometry) -> [[usize; 3]; 3] {
    [
        [g.batch, g.in_channels, g.input.0 * g.input.1],
        [g.out_channels, g.group_in(), g.kernel.0 * g.kernel.1],
        [g.batch, g.out_channels, g.pixels()],
    ]
}

/// A convolution at work: where, which, in what numbers.
struct Call<'a> {
    device: &'a CudaDevice,
    g: &'a Geometry,
    numbers: Numbers,
}

impl Call<'_> {
    /// The address of an operand for cuDNN; rounded ones are kept in `slot`, and then need not be given.
    fn operand<T: DeviceFloat>(&self, slot: &Rounded, full: Option<&Tensor>, dims: [usize; 3]) -> Result<u64> {
        let open = || full.map(Input::of).ok_or_else(|| Error::Msg("internal error: an operand is gone".to_owned()));
        match self.numbers {
            Numbers::Bf16 => slot.address(|| to_bf16::<T>(self.device, &open()?.view::<T>()?)),
            Numbers::Bf16ChannelsLast => slot.address(|| {
                let turned = to_channels_last::<T>(self.device, open()?.pointer::<T>()?, 0, false, dims)?.rounded;
                turned.ok_or_else(|| Error::Msg("internal error: nothing was rounded".to_owned()))
            }),
            _ => open()?.pointer::<T>(),
        }
    }

    /// One part of the convolution. `addresses` are those of x, weight and y; the one that the part
    /// computes is ignored. A bias (an address, or 0) and ReLU follow, if asked.
    fn compute<T: DeviceFloat>(
        &self,
        part: Part,
        mut addresses: [u64; 3],
        bias: u64,
        relu: bool,
    ) -> Result<CudaSlice<T>> {
        let &Self { device, g, numbers } = self;
        let place = match part {
            Part::Data => 0,
            Part::Filter => 1,
            Part::Forward => 2,
        };
        let dims = dims(g)[place];
        let len = dims.iter().product();
        let plain = bias == 0 && !relu;
        if numbers.is_rounded() {
            let out = alloc::<bf16>(device, len)?;
            addresses[place] = address(&out);
            run(device, g, part, numbers, addresses)?;
            return match numbers {
                Numbers::Bf16ChannelsLast => from_channels_last(device, &out, bias, relu, dims),
                _ if plain => from_bf16(device, &out),
                _ => norm::bias_relu(device, norm::Numbers::Rounded(out), bias, relu, dims),
            };
        }
        let out = alloc::<T>(device, len)?;
        addresses[place] = address(&out);
        run(device, g, part, numbers, addresses)?;
        if plain { Ok(out) } else { norm::bias_relu(device, norm::Numbers::Full(out), bias, relu, dims) }
    }

    /// The gradient `dy` of an output `[N, C, …]` for cuDNN, 0 where `ys` is 0; and its sums, if asked.
    fn gradient<T: DeviceFloat>(
        &self,
        dy: &Tensor,
        ys: Option<&Tensor>,
        sum: bool,
        dims: [usize; 3],
    ) -> Result<Masked<T>> {
        if self.numbers == Numbers::Bf16ChannelsLast {
            let (dy, ys) = (Input::of(dy), ys.map(Input::of));
            let ys = address_or_null::<T>(ys.as_ref())?;
            return to_channels_last(self.device, dy.pointer::<T>()?, ys, sum, dims);
        }
        masked(dy, ys, sum, self.numbers.is_rounded())
    }
}

impl<T: DeviceFloat> Masked<T> {
    /// Where the gradient lies: as it came (`dy`) if nothing changed it.
    fn address(&self, dy: &Input<'_>) -> Result<u64> {
        match (&self.rounded, &self.full) {
            (Some(rounded), _) => Ok(address(rounded)),
            (None, Some(full)) => Ok(address(full)),
            (None, None) => dy.pointer::<T>(),
        }
    }
}

/// 2-d convolution.
pub struct Conv2d {
    geometry: Geometry,
    relu: bool,
    precision: Precision,
    x: Rounded,
    w: Rounded,
}

impl Conv2d {
    /// The convolution of these sizes, in the precision that holds now.
    pub fn new(geometry: Geometry, relu: bool) -> Self {
        Self { geometry, relu, precision: Precision::current(), x: Rounded::default(), w: Rounded::default() }
    }

    fn call<'a, T: DeviceFloat>(&'a self, xs: &'a Tensor) -> Result<Call<'a>> {
        let (device, g) = (device_of(xs)?, &self.geometry);
        Ok(Call { device, g, numbers: Numbers::of::<T>(device, self.precision, g) })
    }

    /// The output; `inputs` are x, weight and maybe bias, contiguous.
    fn forward<T: DeviceFloat>(&self, inputs: &[&Tensor]) -> Result<Value> {
        let (g, call) = (&self.geometry, self.call::<T>(inputs[0])?);
        let [of_x, of_w, _] = dims(g);
        let x = call.operand::<T>(&self.x, Some(inputs[0]), of_x)?;
        let addresses = [x, call.operand::<T>(&self.w, Some(inputs[1]), of_w)?, 0];
        let bias = inputs.get(2).map(|bias| Input::of(bias));
        let bias = address_or_null::<T>(bias.as_ref())?;
        let y = call.compute::<T>(Part::Forward, addresses, bias, self.relu)?;
        Ok(value(call.device, y, (g.batch, g.out_channels, g.output.0, g.output.1)))
    }

    /// The gradients of x, weight and maybe bias; `ys` is the output, if there was a ReLU.
    fn backward<T: DeviceFloat>(
        &self,
        kept: &Operands,
        wanted: &[bool],
        ys: Option<&Tensor>,
        dy: &Tensor,
    ) -> Gradients {
        let (call, [of_x, of_w, of_y]) = (self.call::<T>(dy)?, dims(&self.geometry));
        let g = &self.geometry;
        let found = call.gradient::<T>(dy, ys, wanted.get(2) == Some(&true), of_y)?;
        let dy = Input::of(dy);
        let dy = found.address(&dy)?;
        let mut gradients = vec![None, None];
        if wanted[0] {
            let addresses = [0, call.operand::<T>(&self.w, kept.w.as_ref(), of_w)?, dy];
            let dx = call.compute::<T>(Part::Data, addresses, 0, false)?;
            let shape = (g.batch, g.in_channels, g.input.0, g.input.1);
            gradients[0] = Some(tensor(call.device, dx, shape));
        }
        if wanted[1] {
            let addresses = [call.operand::<T>(&self.x, kept.x.as_ref(), of_x)?, 0, dy];
            let dw = call.compute::<T>(Part::Filter, addresses, 0, false)?;
            gradients[1] = Some(tensor(call.device, dw, of_weight(g)));
        }
        if wanted.len() == 3 {
            gradients.push(found.sums.map(|sums| tensor(call.device, sums, g.out_channels)));
        }
        Ok(gradients)
    }

    /// The output, with its backward pass; `inputs` are x, weight and maybe bias.
    pub fn apply(self, inputs: &[&Tensor]) -> Result<Tensor> {
        let value = for_float!(inputs[0].dtype(), T => self.forward::<T>(inputs)?);
        let rounded = for_float!(inputs[0].dtype(), T => self.call::<T>(inputs[0])?.numbers.is_rounded());
        let kept = Operands::of(rounded, inputs);
        if self.relu {
            return node("conv2d", inputs, value, move |inputs, ys, dy| {
                let wanted: Vec<bool> = inputs.iter().map(|input| input.track_op()).collect();
                for_float!(dy.dtype(), T => self.backward::<T>(&kept, &wanted, Some(ys), dy))
            });
        }
        keeping(
            "conv2d",
            inputs,
            value,
            move |wanted, dy| for_float!(dy.dtype(), T => self.backward::<T>(&kept, wanted, None, dy)),
        )
    }
}

/// The shape of a convolution's weight.
fn of_weight(g: &Geometry) -> (usize, usize, usize, usize) {
    (g.out_channels, g.group_in(), g.kernel.0, g.kernel.1)
}

/// What a backward pass multiplies by, unless rounded copies take their place.
struct Operands {
    x: Option<Tensor>,
    w: Option<Tensor>,
}

impl Operands {
    fn of(rounded: bool, inputs: &[&Tensor]) -> Self {
        let kept = |i: usize| (!rounded).then(|| inputs[i].clone());
        Self { x: kept(0), w: kept(1) }
    }
}

/// Transposed 2-d convolution.
pub struct ConvTranspose2d {
    /// The convolution that this one is the transpose of: its input is our output.
    geometry: Geometry,
    precision: Precision,
    x: Rounded,
    w: Rounded,
}

impl ConvTranspose2d {
    /// The transpose of the convolution of these sizes, in the precision that holds now.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, precision: Precision::current(), x: Rounded::default(), w: Rounded::default() }
    }

    fn call<'a, T: DeviceFloat>(&'a self, xs: &'a Tensor) -> Result<Call<'a>> {
        let (device, g) = (device_of(xs)?, &self.geometry);
        Ok(Call { device, g, numbers: Numbers::of::<T>(device, self.precision, g) })
    }

    /// The output; `inputs` are x, weight and maybe bias, contiguous.
    fn forward<T: DeviceFloat>(&self, inputs: &[&Tensor]) -> Result<Value> {
        let (g, call) = (&self.geometry, self.call::<T>(inputs[0])?);
        let [_, of_w, of_y] = dims(g);
        let w = call.operand::<T>(&self.w, Some(inputs[1]), of_w)?;
        let addresses = [0, w, call.operand::<T>(&self.x, Some(inputs[0]), of_y)?];
        let bias = inputs.get(2).map(|bias| Input::of(bias));
        let bias = address_or_null::<T>(bias.as_ref())?;
        let y = call.compute::<T>(Part::Data, addresses, bias, false)?;
        Ok(value(call.device, y, (g.batch, g.in_channels, g.input.0, g.input.1)))
    }

    /// The gradients of x, weight and maybe bias.
    fn backward<T: DeviceFloat>(&self, kept: &Operands, wanted: &[bool], dy: &Tensor) -> Gradients {
        let (call, [of_x, of_w, of_y]) = (self.call::<T>(dy)?, dims(&self.geometry));
        let g = &self.geometry;
        let found = call.gradient::<T>(dy, None, wanted.get(2) == Some(&true), of_x)?;
        let dy = Input::of(dy);
        let dy = found.address(&dy)?;
        let mut gradients = vec![None, None];
        if wanted[0] {
            let addresses = [dy, call.operand::<T>(&self.w, kept.w.as_ref(), of_w)?, 0];
            let dx = call.compute::<T>(Part::Forward, addresses, 0, false)?;
            let shape = (g.batch, g.out_channels, g.output.0, g.output.1);
            gradients[0] = Some(tensor(call.device, dx, shape));
        }
        if wanted[1] {
            let addresses = [dy, 0, call.operand::<T>(&self.x, kept.x.as_ref(), of_y)?];
            let dw = call.compute::<T>(Part::Filter, addresses, 0, false)?;
            gradients[1] = Some(tensor(call.device, dw, of_weight(g)));
        }
        if wanted.len() == 3 {
            gradients.push(found.sums.map(|sums| tensor(call.device, sums, g.in_channels)));
        }
        Ok(gradients)
    }

    /// The output, with its backward pass; `inputs` are x, weight and maybe bias.
    pub fn apply(self, inputs: &[&Tensor]) -> Result<Tensor> {
        let value = for_float!(inputs[0].dtype(), T => self.forward::<T>(inputs)?);
        let rounded = for_float!(inputs[0].dtype(), T => self.call::<T>(inputs[0])?.numbers.is_rounded());
        let kept = Operands::of(rounded, inputs);
        keeping(
            "conv_transpose2d",
            inputs,
            value,
            move |wanted, dy| for_float!(dy.dtype(), T => self.backward::<T>(&kept, wanted, dy)),
        )
    }
}
