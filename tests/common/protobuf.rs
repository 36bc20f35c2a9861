//! Writes JSON as protocol buffers, as an API server does.
//!
//! The table of fields follows `generated.proto` of k8s.io/api and k8s.io/apimachinery. It is written independently of
//! the program's, so that a wrong number there is not wrong here as well. Objects of these tests have no field outside
//! it.

use quick_protobuf::Writer;
use serde_json::Value;

/// A field: its name in JSON, its number, its type.
type Field = (&'static str, u32, Is);

#[derive(Clone, Copy)]
enum Is {
    Text,
    Number,
    Truth,
    /// A timestamp: text in JSON, seconds here.
    Time,
    /// A map of strings.
    Texts,
    /// A number or a string.
    Either,
    /// Any JSON, unchanged.
    Json,
    Message(&'static [Field]),
}

use Is::{Either, Json, Message, Number, Text, Texts, Time, Truth};

const METADATA: &[Field] = &[
    ("name", 1, Text),
    ("generateName", 2, Text),
    ("namespace", 3, Text),
    ("uid", 5, Text),
    ("resourceVersion", 6, Text),
    ("generation", 7, Number),
    ("creationTimestamp", 8, Time),
    ("deletionTimestamp", 9, Time),
    ("labels", 11, Texts),
    ("annotations", 12, Texts),
    ("ownerReferences", 13, Message(OWNER)),
    ("finalizers", 14, Text),
    ("managedFields", 17, Message(MANAGED)),
];
const OWNER: &[Field] = &[
    ("kind", 1, Text),
    ("name", 3, Text),
    ("uid", 4, Text),
    ("apiVersion", 5, Text),
    ("controller", 6, Truth),
    ("blockOwnerDeletion", 7, Truth),
];
const MANAGED: &[Field] = &[
    ("manager", 1, Text),
    ("operation", 2, Text),
    ("apiVersion", 3, Text),
    ("time", 4, Time),
    ("fieldsType", 6, Text),
    ("fieldsV1", 7, Json),
];
const LIST_METADATA: &[Field] =
    &[("resourceVersion", 2, Text), ("continue", 3, Text), ("remainingItemCount", 4, Number)];
const SERVICE: &[Field] = &[
    ("metadata", 1, Message(METADATA)),
    ("spec", 2, Message(SERVICE_SPEC)),
    ("status", 3, Message(BALANCER)),
];
const BALANCER: &[Field] = &[(
    "loadBalancer",
    1,
    Message(&[("ingress", 1, Message(&[("ip", 1, Text), ("hostname", 2, Text), ("ipMode", 3, Text)]))]),
)];
const SERVICE_SPEC: &[Field] = &[
    ("ports", 1, Message(SERVICE_PORT)),
    ("selector", 2, Texts),
    ("clusterIP", 3, Text),
    ("type", 4, Text),
    ("externalIPs", 5, Text),
    ("sessionAffinity", 7, Text),
    ("loadBalancerSourceRanges", 9, Text),
    ("externalTrafficPolicy", 11, Text),
    ("healthCheckNodePort", 12, Number),
    ("sessionAffinityConfig", 14, Message(&[("clientIP", 1, Message(&[("timeoutSeconds", 1, Number)]))])),
    ("ipFamilyPolicy", 17, Text),
    ("clusterIPs", 18, Text),
    ("ipFamilies", 19, Text),
    ("internalTrafficPolicy", 22, Text),
];
const SERVICE_PORT: &[Field] = &[
    ("name", 1, Text),
    ("protocol", 2, Text),
    ("port", 3, Number),
    ("targetPort", 4, Either),
    ("nodePort", 5, Number),
    ("appProtocol", 6, Text),
];
const SLICE: &[Field] = &[
    ("metadata", 1, Message(METADATA)),
    ("endpoints", 2, Message(ENDPOINT)),
    ("ports", 3, Message(ENDPOINT_PORT)),
    ("addressType", 4, Text),
];
const ENDPOINT: &[Field] = &[
    ("addresses", 1, Text),
    ("conditions", 2, Message(&[("ready", 1, Truth), ("serving", 2, Truth), ("terminating", 3, Truth)])),
    (
        "targetRef",
        4,
        Message(&[("kind", 1, Text), ("namespace", 2, Text), ("name", 3, Text), ("uid", 4, Text)]),
    ),
    ("nodeName", 6, Text),
    ("zone", 7, Text),
    (
        "hints",
        8,
        Message(&[
            ("forZones", 1, Message(&[("name", 1, Text)])),
            ("forNodes", 2, Message(&[("name", 1, Text)])),
        ]),
    ),
];
const ENDPOINT_PORT: &[Field] =
    &[("name", 1, Text), ("protocol", 2, Text), ("port", 3, Number), ("appProtocol", 4, Text)];
const NODE: &[Field] = &[
    ("metadata", 1, Message(METADATA)),
    (
        "spec",
        2,
        Message(&[
            ("podCIDR", 1, Text),
            ("taints", 5, Message(&[("key", 1, Text), ("value", 2, Text), ("effect", 3, Text)])),
            ("podCIDRs", 7, Text),
        ]),
    ),
    ("status", 3, Message(&[("addresses", 5, Message(&[("type", 1, Text), ("address", 2, Text)]))])),
];
const STATUS: &[Field] = &[
    ("metadata", 1, Message(LIST_METADATA)),
    ("status", 2, Text),
    ("message", 3, Text),
    ("reason", 4, Text),
    (
        "details",
        5,
        Message(&[
            ("name", 1, Text),
            ("kind", 3, Text),
            ("causes", 4, Message(&[("reason", 1, Text), ("message", 2, Text), ("field", 3, Text)])),
            ("retryAfterSeconds", 5, Number),
        ]),
    ),
    ("code", 6, Number),
];
const EITHER: &[Field] = &[("number", 2, Number), ("text", 3, Text)];

/// An event of a watch, preceded by its length.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    put(&mut bytes, 1, kind.as_bytes());
    let mut wrapped = Vec::new();
    put(&mut wrapped, 1, object);
    put(&mut bytes, 2, &wrapped);
    framed(bytes)
}

/// A frame like that of [`event`], around bytes that are not an event.
pub fn noise(bytes: &[u8]) -> Vec<u8> {
    framed([&[0; 4], bytes].concat())
}

fn framed(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A list in its envelope; [`message`] made the items.
pub fn list<'a>(kind: &str, metadata: &Value, items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 1, &fields(LIST_METADATA, metadata));
    for item in items {
        put(&mut bytes, 2, item);
    }
    envelope(kind, &bytes)
}

/// A single object in its envelope.
pub fn object(object: &Value) -> Vec<u8> {
    let kind = object["kind"].as_str().unwrap();
    envelope(kind, &message(kind, object))
}

/// An object of a kind, without its envelope.
pub fn message(kind: &str, object: &Value) -> Vec<u8> {
    let table = match kind {
        "Service" => SERVICE,
        "EndpointSlice" => SLICE,
        "Node" => NODE,
        "Status" => STATUS,
        other => panic!("no kind of ours: {other:?}"),
    };
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        // These fields are in the envelope.
        object.remove("apiVersion");
        object.remove("kind");
    }
    fields(table, &object)
}

/// A message in an envelope: the magic bytes that identify the format, and `Unknown` of pkg/runtime.
pub fn envelope(kind: &str, message: &[u8]) -> Vec<u8> {
    let mut of_type = Vec::new();
    put(&mut of_type, 1, b"v1");
    put(&mut of_type, 2, kind.as_bytes());
    let mut bytes = b"k8s\0".to_vec();
    put(&mut bytes, 1, &of_type);
    put(&mut bytes, 2, message);
    put(&mut bytes, 3, b"");
    put(&mut bytes, 4, b"");
    bytes
}

fn fields(table: &[Field], object: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(object) = object.as_object() else {
        // A value of the wrong type: the program has to notice.
        return object.to_string().into_bytes();
    };
    for (name, value) in object {
        let Some((_, number, is)) = table.iter().find(|(known, ..)| known == name) else {
            panic!("the table of fields has no {name}");
        };
        match value {
            Value::Null => {}
            Value::Array(items) => items.iter().for_each(|item| field(&mut bytes, *number, *is, item)),
            value => field(&mut bytes, *number, *is, value),
        }
    }
    bytes
}

fn field(bytes: &mut Vec<u8>, number: u32, is: Is, value: &Value) {
    match (is, value) {
        (Text, Value::String(text)) => put(bytes, number, &bytes_of(text)),
        (Number, Value::Number(written)) => put_number(bytes, number, written.as_i64().unwrap()),
        (Truth, Value::Bool(truth)) => put_number(bytes, number, i64::from(*truth)),
        (Time, Value::String(text)) => {
            let time: jiff::Timestamp = text.parse().unwrap();
            let mut message = Vec::new();
            put_number(&mut message, 1, time.as_second());
            put_number(&mut message, 2, 0);
            put(bytes, number, &message);
        }
        (Texts, Value::Object(texts)) => {
            for (key, text) in texts {
                let mut entry = Vec::new();
                field(&mut entry, 1, Text, &Value::from(key.as_str()));
                field(&mut entry, 2, Text, text);
                put(bytes, number, &entry);
            }
        }
        (Either, Value::Number(_)) => {
            put(bytes, number, &fields(EITHER, &serde_json::json!({"number": value})));
        }
        (Either, Value::String(_)) => {
            put(bytes, number, &fields(EITHER, &serde_json::json!({"text": value})));
        }
        (Json, value) => {
            let mut message = Vec::new();
            put(&mut message, 1, value.to_string().as_bytes());
            put(bytes, number, &message);
        }
        (Message(table), value) => put(bytes, number, &fields(table, value)),
        // Values of the wrong type come here, too.
        (_, value) => put(bytes, number, value.to_string().as_bytes()),
    }
}

/// Turns U+FFFD of JSON into a byte that is not UTF-8: API servers pass on such strings as they are.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut pieces = text.split('\u{fffd}').map(str::as_bytes);
    let first = pieces.next().unwrap_or_default().to_vec();
    pieces.fold(first, |bytes, piece| [&bytes, &[0xff][..], piece].concat())
}

fn put(bytes: &mut Vec<u8>, number: u32, content: &[u8]) {
    Writer::new(bytes).write_with_tag((number << 3) | 2, |writer| writer.write_bytes(content)).unwrap();
}

fn put_number(bytes: &mut Vec<u8>, number: u32, content: i64) {
    Writer::new(bytes).write_with_tag(number << 3, |writer| writer.write_int64(content)).unwrap();
}
