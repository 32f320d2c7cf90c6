//! Faults. Each proves that it took effect, or fails loudly.

pub mod kills;
pub mod power;
