//! The affine map on a CUDA device.

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Result, Tensor};
use half::bf16;

use super::CAST;
use super::gemm::{self, Factor, Factors, column_sums, product};
use super::runtime::{DeviceFloat, Input, address_or_null, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::node::{Gradients, Value};
use crate::precision::Precision;

/// y = x Wᵀ + b, then ReLU if asked.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub relu: bool,
    pub precision: Precision,
}

impl Linear {
    /// The output, `[…, outputs]`; `inputs` are x, W and maybe b, contiguous.
    pub fn forward<T: DeviceFloat>(&self, inputs: &[&Tensor]) -> Result<Value> {
        let device = device_of(inputs[0])?;
        let (x, w) = (Input::of(inputs[0]), Input::of(inputs[1]));
        let (x, w) = (x.view::<T>()?, w.view::<T>()?);
        let mut y = alloc::<T>(device, self.rows * self.outputs)?;
        let sizes = [self.rows, self.outputs, self.inputs];
        match Factors::of::<T>(self.precision) {
            Factors::Bf16 => {
                let (x, w) = (gemm::to_bf16(device, &x)?, gemm::to_bf16(device, &w)?);
                product(device, Factors::Bf16, sizes, Factor::of(&x), Factor::of(&w).t(), &mut y, false)?;
            }
            factors => product(device, factors, sizes, Factor::of(&x), Factor::of(&w).t(), &mut y, false)?,
        }
        let bias = inputs.get(2).map(|bias| Input::of(bias));
        if bias.is_some() || self.relu {
            let bias = address_or_null::<T>(bias.as_ref())?;
            let (count, channels, plane) = (y.len() as i64, self.outputs as i64, 1i64);
            let grid = elements(y.len());
            launch!(device, CAST, T, "bias_relu", grid, [y, bias, count, channels, plane, i32::from(self.relu)]);
        }
        let mut shape = inputs[0].dims().to_vec();
        shape[inputs[0].rank() - 1] = self.outputs;
        Ok(value(device, y, shape))
    }

    /// The gradients of x, W and maybe b.
    pub fn backward<T: DeviceFloat>(&self, inputs: &[&Tensor], ys: &Tensor, dy: &Tensor) -> Gradients {
        let device = device_of(dy)?;
        let (xs, weight) = (inputs[0], inputs[1]);
        let (x, w, y, dy) = (Input::of(xs), Input::of(weight), Input::of(ys), Input::of(dy));
        let (x, w, dy) = (x.view::<T>()?, w.view::<T>()?, dy.view::<T>()?);
        let of_bias = inputs.get(2).is_some_and(|bias| bias.track_op());
        let y = if self.relu { Some(y.pointer::<T>()?) } else { None };
        let (mut db, mut masked) = (None, None);
        if of_bias || self.relu {
            let found = column_sums::<T>(device, super::runtime::address(&dy), y, self.rows, self.outputs, of_bias)?;
            db = found.sums.map(|sums| tensor(device, sums, self.outputs));
            masked = found.masked;
        }
        let dy = masked.as_ref().map_or(dy, |masked| masked.slice(..));
        let factors = Factors::of::<T>(self.precision);
        let round = |numbers| -> Result<Option<CudaSlice<bf16>>> {
            (factors == Factors::Bf16).then(|| gemm::to_bf16::<T>(device, numbers)).transpose()
        };
        let (rounded_dy, rounded_x, rounded_w);
        (rounded_dy, rounded_x, rounded_w) = (
            round(&dy)?,
            if weight.track_op() { round(&x)? } else { None },
            if xs.track_op() { round(&w)? } else { None },
        );
        let factor =
            |rounded: &Option<CudaSlice<bf16>>, full| rounded.as_ref().map_or_else(|| Factor::of(full), Factor::of);
        let of_dy = factor(&rounded_dy, &dy);
        let dx = if xs.track_op() {
            let mut dx = alloc::<T>(device, self.rows * self.inputs)?;
            let sizes = [self.rows, self.inputs, self.outputs];
            product(device, factors, sizes, of_dy, factor(&rounded_w, &w), &mut dx, false)?;
            Some(tensor(device, dx, xs.shape()))
        } else {
            None
        };
        let dw = if weight.track_op() {
            let mut dw = alloc::<T>(device, self.outputs * self.inputs)?;
            let sizes = [self.outputs, self.inputs, self.rows];
            product(device, factors, sizes, of_dy.t(), factor(&rounded_x, &x), &mut dw, false)?;
            Some(tensor(device, dw, weight.shape()))
        } else {
            None
        };
        let mut gradients = vec![dx, dw];
        if inputs.len() == 3 {
            gradients.push(db);
        }
        Ok(gradients)
    }
}
