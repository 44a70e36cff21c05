//! Figures: curves, bars, heat maps, image grids, histograms, scatter plots, panels.
//!
//! A chart is built from owned data and gives a [`Figure`]: one SVG, and a PNG rasterised from that
//! same SVG with fonts that the crate carries. A notebook cell that ends with a `Figure` shows it;
//! [`Figure::save`] writes a file; [`Figure::png`] gives bytes for
//! [TensorBoard](crate::tensorboard).
//!
//! The look is one for all: dark text on a white ground (legible on GitHub and in a light or dark
//! JupyterLab), the colour-blind-safe palette of Okabe and Ito, a legend above the plot where it
//! cannot cover data. Ticks fall on round numbers and carry an SI prefix from ten thousand on.
//!
//! A cell shows one figure: of two blocks of the same kind, evcxr keeps the last. Put several
//! into [`Panels`].
//!
//! # Examples
//!
//! ```
//! use candle_course::plot::{LineChart, Panels};
//!
//! let train = [2.3, 1.1, 0.7, 0.45, 0.31];
//! let validation = [2.2, 1.2, 0.9, 0.85, 0.9];
//! let loss = LineChart::builder("Loss")
//!     .x_label("epoch")
//!     .y_label("cross-entropy")
//!     .first_x(1.0)
//!     .line("train", &train)
//!     .line("validation", &validation)
//!     .mark("best epoch", 4.0, 0.85)
//!     .build()?;
//! assert!(loss.svg().starts_with("<svg"));
//!
//! let both = Panels::builder(2).add(loss.clone()).add(loss).build()?;
//! assert!(both.width() > 900);
//! # Ok::<(), candle_course::Error>(())
//! ```
//!
//! # Why not a plotting library
//!
//! Charts here are a scale, a frame and marks: some hundred lines. In return the SVG is small
//! enough for a notebook to carry dozens, text is measured with the font it is drawn with, legends
//! and colour bars have a place of their own, and no generic code is instantiated in a cell.

mod axes;
mod bar;
mod canvas;
mod figure;
mod heat_map;
mod histogram;
mod image_grid;
mod line;
mod palette;
mod panels;
mod raster;
mod scale;
mod scatter;
mod series;
mod text;

pub use bar::BarChart;
pub use figure::Figure;
pub use heat_map::HeatMap;
pub use histogram::Histogram;
pub use image_grid::ImageGrid;
pub use line::LineChart;
pub use palette::PALETTE;
pub use panels::Panels;
pub use scatter::ScatterChart;

pub(crate) use image_grid::encode_image;
pub(crate) use scale::compact;
