//! The API's objects, reduced to what is used: the JSON and YAML of both sources, and the protocol buffers of API
//! servers ([`protobuf`]), are decoded into these types.
//!
//! `k8s-openapi` has all fields of all kinds, and at a start most of the time would go into fields that no proxy looks
//! at: the `targetRef` of each endpoint, managed fields, labels. These types leave out unused fields before they are
//! made, and skip unknown ones. Field names are the API's (`kubectl explain`); as in the API, `null` is the same as
//! absent. The types hold what was written, without copying its texts; what it means is [`convert`](super::convert)'s
//! business.

pub mod protobuf;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use smallvec::SmallVec;

/// Label of a Service that another proxy serves (KEP-2447).
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of an EndpointSlice: the name of its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of an EndpointSlice that belongs to a headless Service.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of a Node: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotation of an EndpointSlice: when the change behind it happened.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Annotation of a Service: the form of source ranges before they had a field.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The labels and annotations that are kept.
const KEPT: [&str; 6] = [PROXY_NAME, SERVICE_NAME, HEADLESS, ZONE, TRIGGER_TIME, SOURCE_RANGES];

/// An object of any kind.
pub trait Object<'a> {
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta<'a>;
}

macro_rules! objects {
    ($($(#[$meta:meta])* $name:ident<$life:lifetime> {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
    })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
        #[allow(missing_docs, reason = "the API's documentation is theirs: kubectl explain")]
        pub struct $name<$life> {
            $($(#[$field_meta])* pub $field: Option<$type>,)*
        }
    )* };
}

objects! {
    /// core/v1 `ServiceSpec`.
    ServiceSpec<'a> {
        #[serde(rename = "type")]
        type_: Text<'a>,
        #[serde(rename = "clusterIP")]
        cluster_ip: Text<'a>,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Few<Text<'a>>,
        ip_families: Few<Text<'a>>,
        ports: Vec<ServicePort<'a>>,
        session_affinity: Text<'a>,
        session_affinity_config: SessionAffinityConfig,
        internal_traffic_policy: Text<'a>,
        external_traffic_policy: Text<'a>,
        #[serde(rename = "externalIPs")]
        external_ips: Vec<Text<'a>>,
        load_balancer_source_ranges: Vec<Text<'a>>,
        health_check_node_port: i32,
    }
    /// core/v1 `ServicePort`.
    ServicePort<'a> { name: Text<'a>, protocol: Text<'a>, port: i32, node_port: i32, }
    /// core/v1 `ServiceStatus`.
    ServiceStatus<'a> { load_balancer: LoadBalancerStatus<'a>, }
    /// core/v1 `LoadBalancerStatus`.
    LoadBalancerStatus<'a> { ingress: Vec<LoadBalancerIngress<'a>>, }
    /// core/v1 `LoadBalancerIngress`.
    LoadBalancerIngress<'a> { ip: Text<'a>, ip_mode: Text<'a>, }
    /// discovery/v1 `Endpoint`.
    Endpoint<'a> {
        addresses: Few<Text<'a>>,
        conditions: EndpointConditions,
        node_name: Text<'a>,
        hints: EndpointHints<'a>,
    }
    /// discovery/v1 `EndpointHints`.
    EndpointHints<'a> { for_zones: Vec<Named<'a>>, for_nodes: Vec<Named<'a>>, }
    /// discovery/v1 `ForZone` and `ForNode`.
    Named<'a> { name: Text<'a>, }
    /// discovery/v1 `EndpointPort`.
    EndpointPort<'a> { name: Text<'a>, protocol: Text<'a>, port: i32, }
    /// core/v1 `NodeSpec`.
    NodeSpec<'a> {
        taints: Vec<Taint<'a>>,
        #[serde(rename = "podCIDR")]
        pod_cidr: Text<'a>,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<Text<'a>>,
    }
    /// core/v1 `Taint`.
    Taint<'a> { key: Text<'a>, }
    /// core/v1 `NodeStatus`.
    NodeStatus<'a> { addresses: Vec<NodeAddress<'a>>, }
    /// core/v1 `NodeAddress`.
    NodeAddress<'a> {
        #[serde(rename = "type")]
        type_: Text<'a>,
        address: Text<'a>,
    }
    /// meta/v1 `ObjectMeta`.
    ObjectMeta<'a> {
        namespace: Text<'a>,
        name: Text<'a>,
        uid: Text<'a>,
        resource_version: Text<'a>,
        creation_timestamp: Time,
        deletion_timestamp: Time,
        labels: Texts<'a>,
        annotations: Texts<'a>,
    }
}

/// core/v1 `SessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the API's documentation is theirs: kubectl explain")]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// core/v1 `ClientIPConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the API's documentation is theirs: kubectl explain")]
pub struct ClientIpConfig {
    pub timeout_seconds: Option<i32>,
}

/// discovery/v1 `EndpointConditions`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the API's documentation is theirs: kubectl explain")]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// core/v1 `Service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Service<'a> {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta<'a>,
    /// What its owner wants.
    pub spec: Option<ServiceSpec<'a>>,
    /// What controllers say.
    pub status: Option<ServiceStatus<'a>>,
}

/// discovery/v1 `EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub struct EndpointSlice<'a> {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta<'a>,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Option<Text<'a>>,
    /// Its ports, each of which holds for every endpoint.
    pub ports: Option<Vec<EndpointPort<'a>>>,
    /// Its endpoints.
    pub endpoints: Option<Vec<Endpoint<'a>>>,
}

/// core/v1 `Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
pub struct Node<'a> {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta<'a>,
    /// What its owner wants.
    pub spec: Option<NodeSpec<'a>>,
    /// What the kubelet says.
    pub status: Option<NodeStatus<'a>>,
}

/// meta/v1 `Time`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "v1::Time")]
pub struct Time(pub Timestamp);

impl From<v1::Time> for Time {
    fn from(v1::Time(time): v1::Time) -> Self {
        Self(time)
    }
}

/// A list that nearly always has one item.
pub type Few<T> = SmallVec<[T; 1]>;

/// A text, borrowed from what the object was decoded from if it stands there as it is, without escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AsItIs;

        impl<'de> Visitor<'de> for AsItIs {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }

        from.deserialize_string(AsItIs)
    }
}

impl<'a> Object<'a> for Service<'a> {
    fn metadata(&self) -> &ObjectMeta<'a> {
        &self.metadata
    }
}

impl<'a> Object<'a> for EndpointSlice<'a> {
    fn metadata(&self) -> &ObjectMeta<'a> {
        &self.metadata
    }
}

impl<'a> Object<'a> for Node<'a> {
    fn metadata(&self) -> &ObjectMeta<'a> {
        &self.metadata
    }
}

/// Accepts `null` for a field that is not optional.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The labels or annotations of an object that are used here. Others are dropped: `kubectl`'s annotation with the last
/// applied configuration alone may be as large as the rest of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts<'a>(Vec<(&'static str, Text<'a>)>);

impl Texts<'_> {
    /// The value of one of the kept labels or annotations.
    pub fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(KEPT.contains(&name), "{name} is not kept");
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Texts<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Kept;

        impl<'de> Visitor<'de> for Kept {
            type Value = Texts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts<'de>, A::Error> {
                let mut texts = Texts::default();
                while let Some(Name(name)) = map.next_key()? {
                    match name {
                        Some(name) => {
                            texts.0.push((name, map.next_value::<Option<Text<'de>>>()?.unwrap_or_default()));
                        }
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(texts)
            }
        }

        from.deserialize_map(Kept)
    }
}

/// The name of a label or annotation, if it is kept.
struct Name(Option<&'static str>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Known;

        impl Visitor<'_> for Known {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(KEPT.into_iter().find(|kept| *kept == name)))
            }
        }

        from.deserialize_str(Known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_what_is_unknown_are_passed_over() {
        let text = r#"{"kind": "Service", "metadata": {"name": "web", "managedFields": [{"a": 1}],
            "labels": {"app": 7, "kubernetes.io/service-name": "\u0077eb", "service.kubernetes.io/headless": null},
            "annotations": null}, "spec": {"ports": null, "selector": {"a": "b"}}, "status": null}"#;
        let service: Service<'_> = serde_json::from_str(text).expect("sound JSON");
        let labels = service.metadata.labels.expect("labels");
        let expected = vec![(SERVICE_NAME, Text(Cow::Owned("web".into()))), (HEADLESS, Text::default())];
        assert_eq!(labels, Texts(expected));
        assert!(matches!(&service.metadata.name, Some(Text(Cow::Borrowed("web")))));
        assert_eq!((labels.get(SERVICE_NAME), labels.get(PROXY_NAME)), (Some("web"), None));
        assert_eq!(service.metadata.annotations, None);
        assert!(service.spec.expect("a spec").ports.is_none());
        let node: Node<'_> = serde_json::from_str(r#"{"metadata": null}"#).expect("sound JSON");
        assert_eq!(node.metadata.name, None);
    }
}
