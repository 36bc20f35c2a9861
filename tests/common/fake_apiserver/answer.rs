//! How answers are written: in JSON or in protocol buffers, complete or with a fault.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode, header};
use futures_util::stream::{Stream, StreamExt as _};
use serde_json::{Value, json};

use super::super::protobuf;

/// An encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Protobuf,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Form {
    /// The encoding of the answer to a request, for a server that prefers `self`: JSON, which every server knows, is
    /// the other.
    pub fn of(self, headers: &HeaderMap) -> Self {
        let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accepted.split(',').next() == Some(PROTOBUF) { self } else { Self::Json }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => PROTOBUF,
        }
    }

    /// An event of a watch.
    pub(super) fn event(self, kind: &str, object: &Value) -> Vec<u8> {
        match self {
            // The order of the fields is that of real API servers.
            Self::Json => format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into_bytes(),
            Self::Protobuf => protobuf::event(kind, &protobuf::object(object)),
        }
    }

    /// Bytes in place of an event: an event if this text is one, otherwise nonsense.
    pub(super) fn line(self, text: &str) -> Vec<u8> {
        let event: Value = match (self, serde_json::from_str(text)) {
            (Self::Protobuf, Ok(event)) => event,
            (Self::Protobuf, Err(_)) => return protobuf::noise(text.as_bytes()),
            (Self::Json, _) => return format!("{text}\n").into_bytes(),
        };
        let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
        let object = match object.get("kind") {
            Some(_) => protobuf::object(object),
            None => protobuf::envelope("", b""),
        };
        protobuf::event(kind, &object)
    }

    /// A list.
    pub(super) fn list(self, metadata: &Value, items: &[&Value]) -> Vec<u8> {
        match self {
            Self::Json => json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
                .to_string()
                .into_bytes(),
            Self::Protobuf => {
                let messages: Vec<Vec<u8>> = items
                    .iter()
                    .map(|item| protobuf::message(item["kind"].as_str().unwrap(), item))
                    .collect();
                protobuf::list("List", metadata, messages.iter().map(Vec::as_slice))
            }
        }
    }

    /// An error response: its status code and its Status object.
    pub(super) fn status(self, object: &Value) -> Response<Body> {
        let code = u16::try_from(object["code"].as_u64().unwrap()).unwrap();
        let body = match self {
            Self::Json => object.to_string().into_bytes(),
            Self::Protobuf => protobuf::object(object),
        };
        Response::builder()
            .status(StatusCode::from_u16(code).unwrap())
            .header(header::CONTENT_TYPE, self.content_type())
            .body(Body::from(body))
            .unwrap()
    }

    /// An answer that comes in pieces.
    pub(super) fn respond(self, pieces: impl Stream<Item = Piece> + Send + 'static) -> Response<Body> {
        let played = pieces.filter_map(|piece| async {
            match piece {
                Piece::Bytes(bytes) => Some(Ok(Bytes::from(bytes))),
                Piece::Pause(pause) => {
                    tokio::time::sleep(pause).await;
                    None
                }
                Piece::Stall => std::future::pending().await,
                Piece::Cut => Some(Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
            }
        });
        let response = Response::builder().header(header::CONTENT_TYPE, self.content_type());
        response.body(Body::from_stream(played)).unwrap()
    }
}

/// A part of an answer.
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Pause(Duration),
    Stall,
    Cut,
}

/// Sends a few bytes at a time, with a pause before each piece.
pub(super) fn trickle(bytes: &[u8], pause: Duration) -> Vec<Piece> {
    let chunks = bytes.chunks(64).map(|chunk| Piece::Bytes(chunk.to_vec()));
    chunks.flat_map(|piece| [Piece::Pause(pause), piece]).collect()
}
