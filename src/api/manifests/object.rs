//! One type for objects of the three kinds.

use std::fmt;
use std::sync::Arc;

use crate::api::{Change, Event};
use crate::cluster::types::{EndpointSlice, Node, Service, ServiceKey, SliceKey};

/// What identifies an object. The order is that in which changes are sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ObjectKey {
    Service(ServiceKey),
    Slice(SliceKey),
    Node(Arc<str>),
}

impl fmt::Display for ObjectKey {
    /// As in [`crate::api::convert::Problem`]: `Service default/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Slice(key) => write!(f, "EndpointSlice {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
        }
    }
}

impl ObjectKey {
    /// The event that the object is gone.
    pub(super) fn delete(self) -> Event {
        match self {
            Self::Service(key) => Event::Service(Change::Delete(key)),
            Self::Slice(key) => Event::Slice(Change::Delete(key)),
            Self::Node(name) => Event::Node(Change::Delete(name)),
        }
    }
}

/// An object that this proxy uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Service(Service),
    Slice(EndpointSlice),
    Node(Node),
}

impl Object {
    pub(super) fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => ObjectKey::Service(service.key.clone()),
            Self::Slice(slice) => ObjectKey::Slice(slice.key.clone()),
            Self::Node(node) => ObjectKey::Node(Arc::clone(&node.name)),
        }
    }

    /// The event that the object is there, or has changed.
    pub(super) fn upsert(&self) -> Event {
        match self {
            Self::Service(service) => Event::Service(Change::Upsert(service.clone())),
            Self::Slice(slice) => Event::Slice(Change::Upsert(slice.clone())),
            Self::Node(node) => Event::Node(Change::Upsert(node.clone())),
        }
    }
}
