//! The affine map on a CUDA device.

use std::sync::OnceLock;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Error, Result, Shape, Tensor};
use half::bf16;

use super::CAST;
use super::gemm::{Factor, Factors, masked_columns, product, to_bf16};
use super::runtime::{DeviceFloat, Input, address, address_or_null, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Gradients, Value, keeping, node};
use crate::precision::Precision;

/// y = x Wᵀ + b, then ReLU if asked.
pub struct Linear {
    sizes: [usize; 3],
    relu: bool,
    precision: Precision,
    x: Rounded,
    w: Rounded,
}

/// A factor in bf16, kept from the forward pass for the backward pass.
#[derive(Default)]
pub struct Rounded(OnceLock<CudaSlice<bf16>>);

impl Rounded {
    /// The address of the rounded factor, made at first use.
    pub fn address(&self, make: impl FnOnce() -> Result<CudaSlice<bf16>>) -> Result<u64> {
        if let Some(rounded) = self.0.get() {
            return Ok(address(rounded));
        }
        let rounded = make()?;
        Ok(address(self.0.get_or_init(|| rounded)))
    }

    /// The factor for cuBLAS: `full`, or its rounded numbers, which need not be given a second time.
    fn factor<T: DeviceFloat>(&self, device: &CudaDevice, round: bool, full: Option<&Tensor>) -> Result<Factor> {
        let open = || full.map(Input::of).ok_or_else(|| Error::Msg("internal error: a factor is gone".to_owned()));
        let at = match round {
            true => self.address(|| to_bf16::<T>(device, &open()?.view::<T>()?))?,
            false => open()?.pointer::<T>()?,
        };
        Ok(Factor::at(at))
    }
}

impl Linear {
    /// The map of `rows` rows from `inputs` to `outputs` numbers, in the precision that holds now.
    pub fn new(rows: usize, inputs: usize, outputs: usize, relu: bool) -> Self {
        let precision = Precision::current();
        Self { sizes: [rows, inputs, outputs], relu, precision, x: Rounded::default(), w: Rounded::default() }
    }

    /// The output, `[…, outputs]`; `inputs` are x, W and maybe b, contiguous.
    fn forward<T: DeviceFloat>(&self, inputs: &[&Tensor]) -> Result<Value> {
        let (device, [rows, from, to]) = (device_of(inputs[0])?, self.sizes);
        let factors = Factors::of::<T>(self.precision);
        let round = factors == Factors::Bf16;
        let x = self.x.factor::<T>(device, round, Some(inputs[0]))?;
        let w = self.w.factor::<T>(device, round, Some(inputs[1]))?;
        let mut y = alloc::<T>(device, rows * to)?;
        product(device, factors, [rows, to, from], x, w.t(), &mut y, false)?;
        let bias = inputs.get(2).map(|bias| Input::of(bias));
        if bias.is_some() || self.relu {
            let bias = address_or_null::<T>(bias.as_ref())?;
            let (grid, count, columns, relu) = (elements(y.len()), y.len() as i64, to as i64, i32::from(self.relu));
            launch!(device, CAST, T, "bias_relu", grid, [y, bias, count, columns, relu]);
        }
        let mut shape = inputs[0].dims().to_vec();
        shape[inputs[0].rank() - 1] = to;
        Ok(value(device, y, shape))
    }

    /// The gradients of x, W and maybe b. `kept`: x and W, unless rounded ones were; `ys`: the output, if
    /// there was a ReLU.
    fn backward<T: DeviceFloat>(
        &self,
        kept: &[Option<Tensor>; 2],
        shape: &Shape,
        wanted: &[bool],
        ys: Option<&Tensor>,
        dy: &Tensor,
    ) -> Gradients {
        let (device, [rows, from, to]) = (device_of(dy)?, self.sizes);
        let factors = Factors::of::<T>(self.precision);
        let round = factors == Factors::Bf16;
        let (y, dy) = (ys.map(Input::of), Input::of(dy));
        let y = address_or_null::<T>(y.as_ref())?;
        let of_bias = wanted.get(2) == Some(&true);
        let found = masked_columns::<T>(device, dy.pointer::<T>()?, y, [rows, to], of_bias, round)?;
        let dy = Factor::at(match (&found.rounded, &found.full) {
            (Some(rounded), _) => address(rounded),
            (None, Some(full)) => address(full),
            (None, None) => dy.pointer::<T>()?,
        });
        let mut gradients = vec![None, None];
        if wanted[0] {
            let w = self.w.factor::<T>(device, round, kept[1].as_ref())?;
            let mut dx = alloc::<T>(device, rows * from)?;
            product(device, factors, [rows, from, to], dy, w, &mut dx, false)?;
            gradients[0] = Some(tensor(device, dx, shape));
        }
        if wanted[1] {
            let x = self.x.factor::<T>(device, round, kept[0].as_ref())?;
            let mut dw = alloc::<T>(device, to * from)?;
            product(device, factors, [to, from, rows], dy.t(), x, &mut dw, false)?;
            gradients[1] = Some(tensor(device, dw, (to, from)));
        }
        if wanted.len() == 3 {
            gradients.push(found.sums.map(|sums| tensor(device, sums, to)));
        }
        Ok(gradients)
    }

    /// The output, with its backward pass; `inputs` as for [`forward`](Self::forward).
    pub fn apply(self, inputs: &[&Tensor]) -> Result<Tensor> {
        let value = for_float!(inputs[0].dtype(), T => self.forward::<T>(inputs)?);
        let round = for_float!(inputs[0].dtype(), T => Factors::of::<T>(self.precision) == Factors::Bf16);
        let kept = [0, 1].map(|i| (!round).then(|| inputs[i].clone()));
        let shape = inputs[0].shape().clone();
        if self.relu {
            return node("linear", inputs, value, move |inputs, ys, dy| {
                let wanted: Vec<bool> = inputs.iter().map(|input| input.track_op()).collect();
                for_float!(dy.dtype(), T => self.backward::<T>(&kept, &shape, &wanted, Some(ys), dy))
            });
        }
        keeping(
            "linear",
            inputs,
            value,
            move |wanted, dy| for_float!(dy.dtype(), T => self.backward::<T>(&kept, &shape, wanted, None, dy)),
        )
    }
}
