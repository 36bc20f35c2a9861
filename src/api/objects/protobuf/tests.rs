use proptest::prelude::*;
use quick_protobuf::Writer;

use super::*;
use crate::api::objects::{SERVICE_NAME, SOURCE_RANGES, ZONE};

/// A message of these fields.
fn message(fields: impl FnOnce(&mut Writer<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    fields(&mut Writer::new(&mut bytes));
    bytes
}

fn bytes(writer: &mut Writer<&mut Vec<u8>>, number: u32, content: impl AsRef<[u8]>) {
    writer.write_with_tag(number << 3 | 2, |writer| writer.write_bytes(content.as_ref())).unwrap();
}

fn number(writer: &mut Writer<&mut Vec<u8>>, number: u32, content: i64) {
    writer.write_with_tag(number << 3, |writer| writer.write_int64(content)).unwrap();
}

fn entry(key: &str, value: &str) -> Vec<u8> {
    message(|writer| {
        bytes(writer, 1, key);
        bytes(writer, 2, value);
    })
}

/// A slice with a bit of everything, and with fields that are not used.
fn slice() -> Vec<u8> {
    let metadata = message(|writer| {
        bytes(writer, 1, "web-1");
        bytes(writer, 5, "0c5a7bde-f012-4034-8967-89abcdef0100");
        number(writer, 7, 3);
        bytes(writer, 8, message(|writer| number(writer, 1, 1_700_000_000)));
        bytes(writer, 11, entry("app", "web"));
        bytes(writer, 11, entry(SERVICE_NAME, "web"));
        bytes(writer, 17, [0xff; 40]);
    });
    let endpoint = message(|writer| {
        bytes(writer, 1, "10.1.0.1");
        bytes(writer, 1, "10.1.0.2");
        bytes(writer, 2, message(|writer| number(writer, 1, 0)));
        bytes(writer, 4, "not looked at");
        bytes(writer, 8, message(|writer| bytes(writer, 1, message(|writer| bytes(writer, 1, "a")))));
    });
    let port = message(|writer| {
        bytes(writer, 1, "");
        number(writer, 3, 8080);
    });
    message(|writer| {
        bytes(writer, 1, metadata);
        bytes(writer, 2, endpoint);
        bytes(writer, 3, port);
        bytes(writer, 4, "IPv4");
        writer.write_with_tag(99 << 3 | 1, |writer| writer.write_fixed64(7)).unwrap();
        writer.write_with_tag(98 << 3 | 5, |writer| writer.write_fixed32(7)).unwrap();
    })
}

#[test]
fn what_is_used_is_read_and_the_rest_passed_over() {
    let encoded = slice();
    let slice: EndpointSlice<'_> = decode(&encoded).unwrap();
    let ObjectMeta {
        name, namespace, uid, creation_timestamp, deletion_timestamp, labels, annotations, ..
    } = slice.metadata;
    assert_eq!((name.as_deref(), namespace.as_deref()), (Some("web-1"), None));
    assert_eq!(uid.as_deref(), Some("0c5a7bde-f012-4034-8967-89abcdef0100"));
    assert_eq!(creation_timestamp.unwrap().0.as_second(), 1_700_000_000);
    assert_eq!((deletion_timestamp, annotations), (None, None));
    let labels = labels.unwrap();
    assert_eq!((labels.get(SERVICE_NAME), labels.get(ZONE)), (Some("web"), None));
    assert_eq!(slice.address_type.as_deref(), Some("IPv4"));
    let [port] = &slice.ports.unwrap()[..] else { panic!("one port") };
    assert_eq!((port.name.as_deref(), port.protocol.as_deref(), port.port), (Some(""), None, Some(8080)));
    let [endpoint] = &slice.endpoints.unwrap()[..] else { panic!("one endpoint") };
    let addresses: Vec<&str> = endpoint.addresses.as_ref().unwrap().iter().map(|text| &**text).collect();
    assert_eq!(addresses, ["10.1.0.1", "10.1.0.2"]);
    let conditions = endpoint.conditions.unwrap();
    assert_eq!((conditions.ready, conditions.serving), (Some(false), None));
    let zones = endpoint.hints.as_ref().unwrap().for_zones.as_deref().unwrap();
    assert_eq!(zones[0].name.as_deref(), Some("a"));
}

#[test]
fn errors_name_the_field() {
    let port = |content: &dyn Fn(&mut Writer<&mut Vec<u8>>)| {
        message(|writer| bytes(writer, 2, message(|writer| bytes(writer, 1, message(content)))))
    };
    for (encoded, error) in [
        (port(&|writer| bytes(writer, 3, "80")), "spec.ports.port: a number is expected"),
        (port(&|writer| number(writer, 1, 80)), "spec.ports.name: a text or a message is expected"),
        (port(&|writer| number(writer, 3, 1 << 40)), "spec.ports.port: a number of 32 bits is expected"),
        (message(|writer| bytes(writer, 2, [0x0a, 5, 0])), "spec: Unexpected end of buffer"),
        (vec![0x0a], "Unexpected end of buffer"),
        (vec![0x0b], "Feature 'group' has been deprecated"),
    ] {
        assert_eq!(decode::<Service<'_>>(&encoded).unwrap_err().to_string(), error);
    }
    let negative = port(&|writer| number(writer, 3, -1));
    let service: Service<'_> = decode(&negative).unwrap();
    assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, Some(-1));
}

#[test]
fn bytes_that_are_no_text_spoil_nothing_else() {
    let entry = |key: &[u8], value: &[u8]| {
        message(|writer| {
            bytes(writer, 1, key);
            bytes(writer, 2, value);
        })
    };
    let encoded = message(|writer| {
        bytes(writer, 1, "a");
        bytes(writer, 12, entry(b"note", b"\xff"));
        bytes(writer, 12, entry(b"\xff", b""));
        bytes(writer, 12, entry(SOURCE_RANGES.as_bytes(), b"10.0.0.0/8\xff"));
    });
    let metadata: ObjectMeta<'_> = decode(&encoded).unwrap();
    assert_eq!(metadata.name.as_deref(), Some("a"));
    assert_eq!(metadata.annotations.unwrap().get(SOURCE_RANGES), Some("10.0.0.0/8\u{fffd}"));
}

#[test]
fn what_was_cut_off_is_no_shorter_object() {
    let encoded = slice();
    let complete = Fields::of(&encoded).count();
    for length in 0..encoded.len() {
        let cut = &encoded[..length];
        // A cut between two fields of the outermost message can be noticed only by code that knows the message's
        // length.
        let between = Fields::of(cut).all(|field| field.is_ok());
        assert_eq!(decode::<EndpointSlice<'_>>(cut).is_ok(), between, "{length} bytes");
        assert!(Fields::of(cut).flatten().count() < complete, "{length} bytes");
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(mut noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0..200_usize) {
        let _ = decode::<Service<'_>>(&noise);
        let _ = decode::<Node<'_>>(&noise);
        // A valid message with some bytes replaced is decoded to a greater depth.
        let sound = slice();
        let at = at % sound.len();
        noise.truncate(4.min(sound.len() - at));
        let spoilt = [&sound[..at], &noise, &sound[at + noise.len()..]].concat();
        let _ = decode::<EndpointSlice<'_>>(&spoilt);
    }
}
