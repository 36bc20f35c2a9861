//! Kubernetes → events.
//!
//! Two sources of facts, the API server ([`watch`], [`client`]) and files ([`manifests`]), both deliver [`Event`]s. A
//! third source, of the node's own addresses, is the kernel (`kernel::node_addresses`).
//!
//! Objects are converted to the types of [`crate::cluster::types`] at once ([`convert`]); no Kubernetes type leaves
//! this folder. A source sends `Replace` when it has a complete set (at start, after a relist) and single changes
//! afterwards; it never sends an empty set because of an error.

pub mod client;
pub mod convert;
pub mod events;
pub mod manifests;
pub mod objects;
pub mod watch;

use std::sync::Arc;

use crate::cluster::types::{EndpointSlice, Node, NodeAddresses, Service, ServiceKey, SliceKey};

/// News about objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<K, T> {
    /// An object was created or changed.
    Upsert(T),
    /// An object is gone, or is no longer one of ours (because of a label, or its type).
    Delete(K),
    /// The complete set of objects: an object that is not in it does not exist.
    Replace(Vec<T>),
}

/// What a source of facts says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// About Services.
    Service(Change<ServiceKey, Service>),
    /// About EndpointSlices.
    Slice(Change<SliceKey, EndpointSlice>),
    /// About this node's Node object (the key is the node's name).
    Node(Change<Arc<str>, Node>),
    /// About the Node objects of other nodes; only if those are watched.
    OtherNode(Change<Arc<str>, Node>),
    /// The complete set of this node's addresses, from its kernel.
    NodeAddresses(NodeAddresses),
}
