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
//! # What draws
//!
//! [plotters] draws: its areas, coordinates, round numbers, mesh and elements. Its
//! backend here is [`Svg`], whose documents are small enough for a notebook to carry dozens; around
//! the plots of plotters stand the titles, legends and colour bars of this crate. What the charts
//! here do not have is drawn with plotters itself, and is a figure all the same: [`Figure::draw`].

mod axis;
mod bar;
mod figure;
mod frame;
mod heat_map;
mod histogram;
mod image_grid;
mod line;
mod palette;
mod panels;
mod raster;
mod scatter;
mod series;
mod svg;
mod text;

pub use bar::BarChart;
pub use figure::{Area, Figure};
pub use heat_map::HeatMap;
pub use histogram::Histogram;
pub use image_grid::ImageGrid;
pub use line::LineChart;
pub use palette::PALETTE;
pub use panels::Panels;
pub use scatter::ScatterChart;
pub use svg::Svg;

pub(crate) use axis::compact;
pub(crate) use image_grid::encode_image;
