//! What scripts and the model do not show: bounds of work per record, limits, time stamps, broken rows.

mod bounds;
mod broken_rows;
mod cluster;
mod format;
mod limits;
mod stamps;
