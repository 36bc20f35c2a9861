//! The kinds of objects that are watched: where they are, which of them are wanted, and what they are converted to.

use std::sync::Arc;

use serde::Deserialize;

use super::Resource;
use crate::api::convert::{Converted, Converter};
use crate::api::objects;
use crate::api::objects::protobuf::Value;
use crate::api::{Change, Event};
use crate::cluster::types::{EndpointSlice, Node, Service, ServiceKey, SliceKey};

/// A kind of objects, and which of them are wanted (contract 3.1).
///
/// Selecting is the server's work: an object that stops matching is sent as deleted, one that begins matching as added.
pub(super) trait Kind: Send + 'static {
    /// Its name and place.
    const RESOURCE: Resource;
    /// The API's object.
    type Object<'a>: Deserialize<'a> + Value<'a> + objects::Object<'a>;
    /// The key of our object.
    type Key: Ord + Clone + Send + Sync;
    /// Our object.
    type Item: Send;

    /// The label selector.
    fn labels(&self) -> Option<&str> {
        None
    }

    /// The field selector.
    fn fields(&self) -> Option<&str> {
        None
    }

    /// Gives up the field selector, if this refusal (the server's text) is about it and the selector only spares
    /// objects that are ignored anyway. Returns whether it was given up now.
    fn give_up_fields(&mut self, _refusal: &str) -> bool {
        false
    }

    /// The key of an object.
    fn key(namespace: &str, name: &str) -> Self::Key;

    /// Our object, or why there is none.
    fn convert(&mut self, object: &Self::Object<'_>) -> Converted<Self::Item>;

    /// The event that reports a change.
    fn event(change: Change<Self::Key, Self::Item>) -> Event;
}

/// Services, without those of another proxy and headless ones.
#[derive(Default)]
pub(super) struct Services {
    converter: Converter,
    /// The server does not know the field selector, so headless Services come too. Servers know it since 1.31; older
    /// ones refuse the request, and name the field that they do not know.
    with_headless: bool,
}

impl Kind for Services {
    const RESOURCE: Resource = Resource::Services;
    type Object<'a> = objects::Service<'a>;
    type Key = ServiceKey;
    type Item = Service;

    fn labels(&self) -> Option<&str> {
        Some("!service.kubernetes.io/service-proxy-name")
    }

    fn fields(&self) -> Option<&str> {
        (!self.with_headless).then_some("spec.clusterIP!=None")
    }

    fn give_up_fields(&mut self, refusal: &str) -> bool {
        let gives_up = !self.with_headless && refusal.contains("spec.clusterIP");
        self.with_headless |= gives_up;
        gives_up
    }

    fn key(namespace: &str, name: &str) -> ServiceKey {
        ServiceKey::new(namespace, name)
    }

    fn convert(&mut self, object: &objects::Service<'_>) -> Converted<Service> {
        self.converter.service(object)
    }

    fn event(change: Change<ServiceKey, Service>) -> Event {
        Event::Service(change)
    }
}

/// EndpointSlices, without those of headless Services.
#[derive(Default)]
pub(super) struct Slices(Converter);

impl Kind for Slices {
    const RESOURCE: Resource = Resource::EndpointSlices;
    type Object<'a> = objects::EndpointSlice<'a>;
    type Key = SliceKey;
    type Item = EndpointSlice;

    fn labels(&self) -> Option<&str> {
        Some("!service.kubernetes.io/headless")
    }

    fn key(namespace: &str, name: &str) -> SliceKey {
        SliceKey::new(namespace, name)
    }

    fn convert(&mut self, object: &objects::EndpointSlice<'_>) -> Converted<EndpointSlice> {
        self.0.slice(object)
    }

    fn event(change: Change<SliceKey, EndpointSlice>) -> Event {
        Event::Slice(change)
    }
}

/// The Node object of this node. As in kube-proxy, it is listed and watched, not read by name: the same three verbs for
/// all kinds.
pub(super) struct OwnNode {
    fields: String,
    converter: Converter,
}

impl OwnNode {
    pub(super) fn named(name: &str) -> Self {
        Self { fields: format!("metadata.name={name}"), converter: Converter::default() }
    }
}

impl Kind for OwnNode {
    const RESOURCE: Resource = Resource::Nodes;
    type Object<'a> = objects::Node<'a>;
    type Key = Arc<str>;
    type Item = Node;

    fn fields(&self) -> Option<&str> {
        Some(&self.fields)
    }

    fn key(_namespace: &str, name: &str) -> Arc<str> {
        name.into()
    }

    fn convert(&mut self, object: &objects::Node<'_>) -> Converted<Node> {
        self.converter.node(object)
    }

    fn event(change: Change<Arc<str>, Node>) -> Event {
        Event::Node(change)
    }
}

/// The Node objects of all other nodes, if the user wants them looked at.
pub(super) struct OtherNodes(OwnNode);

impl OtherNodes {
    pub(super) fn of(name: &str) -> Self {
        Self(OwnNode { fields: format!("metadata.name!={name}"), converter: Converter::default() })
    }
}

impl Kind for OtherNodes {
    const RESOURCE: Resource = Resource::OtherNodes;
    type Object<'a> = objects::Node<'a>;
    type Key = Arc<str>;
    type Item = Node;

    fn fields(&self) -> Option<&str> {
        self.0.fields()
    }

    fn key(namespace: &str, name: &str) -> Arc<str> {
        OwnNode::key(namespace, name)
    }

    fn convert(&mut self, object: &objects::Node<'_>) -> Converted<Node> {
        self.0.convert(object)
    }

    fn event(change: Change<Arc<str>, Node>) -> Event {
        Event::OtherNode(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_selector_is_given_up_once_and_only_if_the_refusal_is_about_it() {
        let mut services = Services::default();
        assert!(!services.give_up_fields("unable to parse requirement"));
        assert!(services.fields().is_some());
        let refusal = "\"spec.clusterIP\" is not a known field selector";
        assert!(services.give_up_fields(refusal));
        assert_eq!(services.fields(), None);
        assert!(!services.give_up_fields(refusal), "a request without it would not fare better");
        assert!(!OwnNode::named("a").give_up_fields(refusal), "all nodes would come");
    }
}
