//! Code that several test programs share.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of this")]

pub mod fake_apiserver;
pub mod kubeconfig;
pub mod objects;
pub mod protobuf;
pub mod real_apiserver;
pub mod relay;
