//! Wanted − actual → steps.

pub mod plan;

pub use plan::{Phase, Plan, PlannedStep, Step};
