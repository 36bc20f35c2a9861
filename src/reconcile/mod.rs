//! The loop that drives facts → wanted state → difference → kernel.

mod audit;
pub mod core;
pub mod drain;
mod first;
pub mod note;
mod ownership;
pub mod schedule;

#[cfg(test)]
mod tests;
