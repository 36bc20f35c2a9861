//! Requests: what is wanted, whether it should fail, and lists.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, header};
use futures_util::stream;
use serde_json::{Value, json};

use super::answer::{Piece, trickle};
use super::selectors::matches;
use super::statuses::{denial, failure};
use super::watches::open_watch;
use super::{FakeApiServer, Fault, Form, Kind, Received, Wants};

pub(super) async fn answer(State(server): State<FakeApiServer>, request: Request<Body>) -> Response<Body> {
    let form = server.world().form.of(request.headers());
    let Some(kind) = Kind::of_path(request.uri().path()) else {
        return form.status(&failure(404, "NotFound", "the server could not find the requested resource"));
    };
    let query = request.uri().query().unwrap_or_default();
    let parameters = form_urlencoded::parse(query.as_bytes()).into_owned().collect::<BTreeMap<_, _>>();
    let is = |name: &str| parameters.get(name).is_some_and(|value| value == "true");
    let wants = match (is("watch"), is("sendInitialEvents")) {
        (false, _) => Wants::List,
        (true, false) => Wants::Watch,
        (true, true) => Wants::Stream,
    };
    let headers = request.headers();
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = header(header::AUTHORIZATION);
    let fault = {
        let mut world = server.world();
        let [accept, user_agent] =
            [header::ACCEPT, header::USER_AGENT].map(|name| header(name).unwrap_or_default().to_owned());
        world.received.push(Received { kind, wants, parameters: parameters.clone(), accept, user_agent });
        if let Some(token) = &world.token
            && bearer != Some(&format!("Bearer {token}"))
        {
            return form.status(&failure(401, "Unauthorized", "Unauthorized"));
        }
        if let Some(code) = world.denied.get(&(kind, wants)) {
            return form.status(&denial(*code, kind, wants));
        }
        let position = world.faults.iter().position(|(of, to, _)| (*of, *to) == (kind, wants));
        position.and_then(|position| world.faults.remove(position)).map(|(.., fault)| fault)
    };
    match &fault {
        Some(Fault::Status(code)) => return form.status(&failure(*code, "", "told to fail")),
        Some(Fault::Plain(code, seconds)) => {
            let response = Response::builder().status(*code).header(header::RETRY_AFTER, *seconds);
            return response.body(Body::from("Too many requests, please try again later.\n")).unwrap();
        }
        Some(Fault::Silence) => std::future::pending().await,
        _ => {}
    }
    if kind == Kind::Services && parameters.contains_key("fieldSelector") && !server.world().selects_services
    {
        let message = "\"spec.clusterIP\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
        return form.status(&failure(400, "BadRequest", message));
    }
    if wants == Wants::Stream && !server.world().has_streaming_lists {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the \
                       WatchList feature gate is enabled";
        return form.status(&failure(422, "Invalid", message));
    }
    match wants {
        Wants::List => list(&server, form, kind, &parameters, fault.as_ref()),
        Wants::Watch | Wants::Stream => open_watch(server, form, kind, wants, parameters, fault.as_ref()),
    }
}

fn list(
    server: &FakeApiServer,
    form: Form,
    kind: Kind,
    parameters: &BTreeMap<String, String>,
    fault: Option<&Fault>,
) -> Response<Body> {
    let world = server.world();
    // A ticket is "version:index".
    let (at, skip) = match parameters.get("continue").map(|ticket| ticket.split_once(':').unwrap()) {
        Some((version, skip)) => {
            let version: u64 = version.parse().unwrap();
            if version < world.remembered_from {
                return form.status(&failure(410, "Expired", "The provided continue parameter is too old"));
            }
            (version, skip.parse().unwrap())
        }
        None => match world.answerable(parameters) {
            Ok(version) => (version, 0),
            Err(refusal) => return form.status(&refusal),
        },
    };
    let objects = world.objects(kind, at);
    let matching: Vec<&Value> = objects.values().filter(|object| matches(object, parameters)).collect();
    let limit = parameters.get("limit").map_or(usize::MAX, |text| text.parse().unwrap());
    let rest = matching.len().saturating_sub(skip).saturating_sub(limit);
    // In protocol buffers, a real server writes a ticket in any case.
    let mut metadata = json!({"resourceVersion": at.to_string(), "continue": ""});
    if rest > 0 {
        metadata["continue"] = json!(format!("{at}:{}", skip + limit));
        metadata["remainingItemCount"] = json!(rest);
    }
    let items: Vec<&Value> = matching.into_iter().skip(skip).take(limit).collect();
    let bytes = form.list(&metadata, &items);
    let half = bytes[..bytes.len() / 2].to_vec();
    let pieces = match fault {
        Some(Fault::StallAfter(_)) => vec![Piece::Bytes(half), Piece::Stall],
        Some(Fault::CutAfter(_)) => vec![Piece::Bytes(half), Piece::Cut],
        Some(Fault::EndAfter(_)) => vec![Piece::Bytes(half)],
        Some(Fault::Trickle(pause)) => trickle(&bytes, *pause),
        _ => vec![Piece::Bytes(bytes)],
    };
    form.respond(stream::iter(pieces))
}
