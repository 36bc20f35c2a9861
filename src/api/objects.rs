//! The API's objects, as far as they are used: what the JSON and YAML of both sources is decoded into.
//!
//! `k8s-openapi` has all fields of all kinds, and spends most of the time of a start on those that no proxy looks at: the
//! `targetRef` of each endpoint, managed fields, labels. These types leave out what is not used before it is made; what is
//! unknown is passed over. Field names are the API's (`kubectl explain`); as in the API, `null` is as good as absent.
//! They hold what was written; what it means is [`convert`](super::convert)'s business.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

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
/// Annotation of a Service: the form that source ranges had before they had a field.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The labels and annotations that are kept.
const KEPT: [&str; 6] = [PROXY_NAME, SERVICE_NAME, HEADLESS, ZONE, TRIGGER_TIME, SOURCE_RANGES];

/// An object of any kind.
pub trait Object {
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;
}

macro_rules! objects {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        #[allow(missing_docs, reason = "the API's documentation is theirs: kubectl explain")]
        pub struct $name {
            $($(#[$field_meta])* pub $field: Option<$type>,)*
        }
    )* };
}

objects! {
    /// core/v1 `ServiceSpec`.
    ServiceSpec {
        #[serde(rename = "type")]
        type_: String,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        ip_families: Vec<String>,
        ports: Vec<ServicePort>,
        session_affinity: String,
        session_affinity_config: SessionAffinityConfig,
        internal_traffic_policy: String,
        external_traffic_policy: String,
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        load_balancer_source_ranges: Vec<String>,
        health_check_node_port: i32,
    }
    /// core/v1 `SessionAffinityConfig`.
    SessionAffinityConfig {
        #[serde(rename = "clientIP")]
        client_ip: ClientIpConfig,
    }
    /// core/v1 `ClientIPConfig`.
    ClientIpConfig { timeout_seconds: i32, }
    /// core/v1 `ServicePort`.
    ServicePort { name: String, protocol: String, port: i32, node_port: i32, }
    /// core/v1 `ServiceStatus`.
    ServiceStatus { load_balancer: LoadBalancerStatus, }
    /// core/v1 `LoadBalancerStatus`.
    LoadBalancerStatus { ingress: Vec<LoadBalancerIngress>, }
    /// core/v1 `LoadBalancerIngress`.
    LoadBalancerIngress { ip: String, ip_mode: String, }
    /// discovery/v1 `Endpoint`.
    Endpoint { addresses: Vec<String>, conditions: EndpointConditions, node_name: String, hints: EndpointHints, }
    /// discovery/v1 `EndpointConditions`.
    EndpointConditions { ready: bool, serving: bool, terminating: bool, }
    /// discovery/v1 `EndpointHints`.
    EndpointHints { for_zones: Vec<Named>, for_nodes: Vec<Named>, }
    /// discovery/v1 `ForZone` and `ForNode`.
    Named { name: String, }
    /// discovery/v1 `EndpointPort`.
    EndpointPort { name: String, protocol: String, port: i32, }
    /// core/v1 `NodeSpec`.
    NodeSpec {
        taints: Vec<Taint>,
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
    }
    /// core/v1 `Taint`.
    Taint { key: String, }
    /// core/v1 `NodeStatus`.
    NodeStatus { addresses: Vec<NodeAddress>, }
    /// core/v1 `NodeAddress`.
    NodeAddress {
        #[serde(rename = "type")]
        type_: String,
        address: String,
    }
    /// meta/v1 `ObjectMeta`.
    ObjectMeta {
        namespace: String,
        name: String,
        resource_version: String,
        creation_timestamp: Time,
        deletion_timestamp: Time,
        labels: Texts,
        annotations: Texts,
    }
}

/// core/v1 `Service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: Option<ServiceSpec>,
    /// What controllers say.
    pub status: Option<ServiceStatus>,
}

/// discovery/v1 `EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Option<String>,
    /// Its ports; each holds for every endpoint.
    pub ports: Option<Vec<EndpointPort>>,
    /// Its endpoints.
    pub endpoints: Option<Vec<Endpoint>>,
}

/// core/v1 `Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its metadata.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What its owner wants.
    pub spec: Option<NodeSpec>,
    /// What the kubelet says.
    pub status: Option<NodeStatus>,
}

impl Object for Service {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for EndpointSlice {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Object for Node {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// `null` for what is not optional.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The labels or annotations of an object that are used here; the last one applied by `kubectl` alone may be as large as
/// all the rest of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts(Vec<(&'static str, String)>);

impl Texts {
    /// The value of one of those that are kept.
    pub fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(KEPT.contains(&name), "{name} is not kept");
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Kept;

        impl<'de> Visitor<'de> for Kept {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = Texts::default();
                while let Some(Name(name)) = map.next_key()? {
                    match name {
                        Some(name) => {
                            texts.0.push((name, map.next_value::<Option<String>>()?.unwrap_or_default()));
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
        let service: Service = serde_json::from_str(text).expect("sound JSON");
        let labels = service.metadata.labels.expect("labels");
        assert_eq!(labels, Texts(vec![(SERVICE_NAME, "web".into()), (HEADLESS, String::new())]));
        assert_eq!((labels.get(SERVICE_NAME), labels.get(PROXY_NAME)), (Some("web"), None));
        assert_eq!(service.metadata.annotations, None);
        assert!(service.spec.expect("a spec").ports.is_none());
        let node: Node = serde_json::from_str(r#"{"metadata": null}"#).expect("sound JSON");
        assert_eq!(node.metadata.name, None);
    }
}
