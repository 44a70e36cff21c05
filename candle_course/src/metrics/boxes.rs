//! How boxes overlap.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::kernels::transfer::send;
use crate::metrics::input::numbers;

/// A box as `[x1, y1, x2, y2]`, corners in pixels.
pub(crate) type Corners = [f64; 4];

pub(crate) fn corners(name: &str, boxes: &Tensor) -> Result<Vec<Corners>> {
    let (_, 4) = boxes.dims2().map_err(|_| shape(name, boxes))? else {
        return Err(shape(name, boxes));
    };
    let values = numbers(name, boxes)?;
    let boxes: Vec<Corners> = values.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
    if let Some(bad) = boxes.iter().find(|b| !(b[2] >= b[0] && b[3] >= b[1])) {
        return Err(Error::argument(name, "corners [x1, y1, x2, y2] with x2 ≥ x1 and y2 ≥ y1", format!("{bad:?}"))
            .hint("are these [x, y, width, height], or centres?"));
    }
    Ok(boxes)
}

fn shape(name: &str, boxes: &Tensor) -> Error {
    Error::argument(name, "boxes of shape [N, 4]", format!("shape {:?}", boxes.dims()))
}

pub(crate) fn area(b: &Corners) -> f64 {
    (b[2] - b[0]) * (b[3] - b[1])
}

fn intersection(a: &Corners, b: &Corners) -> f64 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    width * height
}

/// Intersection over union; 0 for two boxes without area.
pub(crate) fn iou(a: &Corners, b: &Corners) -> f64 {
    let both = intersection(a, b);
    let union = area(a) + area(b) - both;
    if union > 0.0 { both / union } else { 0.0 }
}

fn pairwise(a: &Tensor, b: &Tensor, f: impl Fn(&Corners, &Corners) -> f64) -> Result<Tensor> {
    let (first, second) = (corners("a", a)?, corners("b", b)?);
    let values: Vec<f64> = first.iter().flat_map(|x| second.iter().map(|y| f(x, y)).collect::<Vec<_>>()).collect();
    let values = Tensor::from_vec(values, (first.len(), second.len()), &Device::Cpu)?.to_dtype(a.dtype())?;
    Ok(send(&values, a.device())?)
}

/// The areas of boxes `[N, 4]` as corners x1, y1, x2, y2: `[N]`, in square pixels.
///
/// # Errors
/// If the shape is another, or corners are swapped.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let boxes = Tensor::new(&[[0f32, 0., 4., 3.]], &Device::Cpu)?;
/// assert_eq!(box_area(&boxes)?.to_vec1::<f32>()?, [12.0]);
/// assert!(box_area(&Tensor::new(&[[4f32, 0., 0., 3.]], &Device::Cpu)?).is_err());
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn box_area(boxes: &Tensor) -> Result<Tensor> {
    let areas: Vec<f64> = corners("boxes", boxes)?.iter().map(area).collect();
    let count = areas.len();
    let areas = Tensor::from_vec(areas, count, &Device::Cpu)?.to_dtype(boxes.dtype())?;
    Ok(send(&areas, boxes.device())?)
}

/// The IoU of every box of `a` `[N, 4]` with every box of `b` `[M, 4]`: `[N, M]`, in [0, 1].
///
/// As `torchvision.ops.box_iou`; two boxes without area have 0.
///
/// # Errors
/// If the shapes are others, or corners are swapped.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let a = Tensor::new(&[[0f64, 0., 2., 2.]], &Device::Cpu)?;
/// let b = Tensor::new(&[[1f64, 0., 3., 2.], [5., 5., 6., 6.]], &Device::Cpu)?;
/// assert_eq!(box_iou(&a, &b)?.to_vec2::<f64>()?, [[1.0 / 3.0, 0.0]]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn box_iou(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    pairwise(a, b, iou)
}

/// Generalised IoU, IoU − (hull − union)/hull, in (−1, 1]: it still falls with distance where IoU is 0.
///
/// `a`: `[N, 4]`, `b`: `[M, 4]`; the result is `[N, M]`. (Rezatofighi et al., "Generalized
/// intersection over union", 2019; `torchvision.ops.generalized_box_iou`.)
///
/// # Errors
/// If the shapes are others, or corners are swapped.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let a = Tensor::new(&[[0f64, 0., 1., 1.]], &Device::Cpu)?;
/// let b = Tensor::new(&[[2f64, 0., 3., 1.], [9., 0., 10., 1.]], &Device::Cpu)?;
/// assert_eq!(generalized_box_iou(&a, &b)?.to_vec2::<f64>()?, [[-1.0 / 3.0, -0.8]]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn generalized_box_iou(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    pairwise(a, b, |x, y| {
        let hull = area(&[x[0].min(y[0]), x[1].min(y[1]), x[2].max(y[2]), x[3].max(y[3])]);
        let union = area(x) + area(y) - intersection(x, y);
        if hull > 0.0 { iou(x, y) - (hull - union) / hull } else { 0.0 }
    })
}
