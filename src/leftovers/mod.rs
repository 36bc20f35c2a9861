//! What kube-proxy leaves behind, in all its modes, and what this program leaves behind that nobody else owns.
//!
//! | what | where | removed through |
//! |---|---|---|
//! | chains and jumps of the modes ipvs, iptables and userspace | iptables-legacy and iptables-nft, both families | the programs of iptables; netlink for tables that these do not print |
//! | sets of the mode ipvs | ipset | netlink |
//! | tables `kube-proxy` of the mode nftables | nftables, both families | netlink |
//! | virtual servers, `kube-ipvs0` | IPVS, rtnetlink | netlink; taken over, except for node ports of Services that are gone; removed by `--cleanup` |
//!
//! [`takeover`] removes the first three as soon as our own rules are in place, and tries until that succeeds; it
//! maintains the accept in FORWARD, and reports a kube-proxy that comes after that (`back.rs`). [`foresee`] tells in
//! advance what it would do. [`cleanup`] is `--cleanup` and `--cleanup-own`. The programs of iptables are started for
//! these purposes only, and only if iptables has tables: see `tools.rs` for why they are needed at all.
//!
//! While the program runs on the node ([`running`]), neither cleanup does anything.
//!
//! What to remove is decided on data (`names.rs`, `iptables_save.rs`, `seen.rs`, `plan.rs`, `forward.rs`). What others
//! made is never touched, and what others use of kube-proxy's stays and is named.

mod back;
pub mod cleanup;
pub mod foresee;
mod forward;
mod iptables;
mod iptables_save;
mod names;
mod node_ports;
mod plan;
pub mod report;
pub mod running;
mod seen;
mod sets;
pub mod takeover;
mod tools;
mod virtual_servers;
