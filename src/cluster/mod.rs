//! Events → facts.

pub mod types;
