//! What a notebook shows beside figures: tables and exercise checks.

mod check;
mod table;

pub use check::Check;
pub use table::{Cell, Row, Table};
