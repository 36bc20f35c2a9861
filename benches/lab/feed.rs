//! The load generator: an API server that only lists and watches, as fast as its sockets accept data.
//!
//! It speaks the part of the API's HTTP that a service proxy needs: streaming lists (KEP-3157), plain lists, and
//! watches, in protocol buffers for clients that accept them, otherwise in JSON. The cost of a change is measured from
//! here: [`Feed::put`] returns when the event is in the proxy's socket. The real API machinery takes a millisecond or
//! more to get that far, and the time varies.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::{input, protobuf};

/// How many bytes are written at once.
const PIECE: usize = 64 << 10;

/// A kind of object that can be watched, by the last part of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Services,
    Slices,
    Nodes,
}

impl Resource {
    fn of(path: &str) -> Option<Self> {
        match path.rsplit('/').next()? {
            "services" => Some(Self::Services),
            "endpointslices" => Some(Self::Slices),
            "nodes" => Some(Self::Nodes),
            _ => None,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::Slices => "EndpointSlice",
            Self::Nodes => "Node",
        }
    }
}

/// A running server. Its threads end with the process.
pub(crate) struct Feed {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    version: u64,
    /// The objects in both forms, by kind and name.
    objects: BTreeMap<(Resource, String), [Vec<u8>; 2]>,
    watches: Vec<(Resource, Form, TcpStream)>,
    /// When a complete list was last sent.
    listed: BTreeMap<Resource, Instant>,
}

impl Feed {
    /// Listens on a free port of the loopback device.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Mutex::new(Shared { version: 1, ..Shared::default() }));
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                // A client that disconnects is not an error.
                thread::spawn(move || drop(serve(connection, &shared)));
            }
        });
        let feed = Self { port, shared };
        // The program waits for its own Node.
        feed.put(Resource::Nodes, input::node())?;
        Ok(feed)
    }

    /// The URL for `--master`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// When complete lists of both Services and EndpointSlices had been sent; `None`: they have not been yet.
    pub(crate) fn listed(&self) -> Option<Instant> {
        let shared = lock(&self.shared);
        Some(*shared.listed.get(&Resource::Services)?.max(shared.listed.get(&Resource::Slices)?))
    }

    /// Forgets that complete lists were sent.
    pub(crate) fn forget_listed(&self) {
        lock(&self.shared).listed.clear();
    }

    /// Creates or changes an object, and tells all watches; returns when it began to tell them.
    pub(crate) fn put(&self, resource: Resource, object: Value) -> io::Result<Instant> {
        self.put_all(resource, vec![object])
    }

    /// Does the same for several objects, in as few writes as possible.
    pub(crate) fn put_all(&self, resource: Resource, objects: Vec<Value>) -> io::Result<Instant> {
        let mut shared = lock(&self.shared);
        let mut events = <[Vec<u8>; 2]>::default();
        for mut object in objects {
            shared.version += 1;
            object["metadata"]["resourceVersion"] = shared.version.to_string().into();
            let key = (resource, name_of(&object));
            let kind = if shared.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            let encoded = FORMS.map(|form| form.encode(resource, &object));
            for form in FORMS {
                form.push_event(&mut events[form as usize], kind, &encoded[form as usize]);
            }
            shared.objects.insert(key, encoded);
        }
        shared.tell(resource, &events)
    }

    /// Deletes objects, and tells all watches.
    pub(crate) fn delete_all(&self, resource: Resource, objects: Vec<Value>) -> io::Result<Instant> {
        let mut shared = lock(&self.shared);
        let mut events = <[Vec<u8>; 2]>::default();
        for mut object in objects {
            shared.version += 1;
            object["metadata"]["resourceVersion"] = shared.version.to_string().into();
            shared.objects.remove(&(resource, name_of(&object)));
            for form in FORMS {
                form.push_event(&mut events[form as usize], "DELETED", &form.encode(resource, &object));
            }
        }
        shared.tell(resource, &events)
    }
}

impl Shared {
    fn tell(&mut self, resource: Resource, events: &[Vec<u8>; 2]) -> io::Result<Instant> {
        let mut chunks = <[Vec<u8>; 2]>::default();
        for (chunk, events) in chunks.iter_mut().zip(events) {
            write_chunk(chunk, events)?;
        }
        let begun = Instant::now();
        // Watches whose client is gone are dropped.
        self.watches.retain_mut(|(watched, form, stream)| {
            *watched != resource || stream.write_all(&chunks[*form as usize]).is_ok()
        });
        Ok(begun)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

/// An encoding of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

/// Both encodings, each at its own index.
const FORMS: [Form; 2] = [Form::Json, Form::Protobuf];

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// Encodes an object; in protocol buffers without its envelope, as in lists.
    fn encode(self, resource: Resource, object: &Value) -> Vec<u8> {
        match self {
            Self::Json => object.to_string().into_bytes(),
            Self::Protobuf => protobuf::message(resource.kind(), object),
        }
    }

    fn push_event(self, events: &mut Vec<u8>, kind: &str, object: &[u8]) {
        match self {
            Self::Json => {
                events.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
                events.extend_from_slice(object);
                events.extend_from_slice(b"}\n");
            }
            Self::Protobuf => events.extend(protobuf::event(kind, &protobuf::envelope("", object))),
        }
    }

    fn list<'a>(self, metadata: &Value, objects: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        match self {
            Self::Json => {
                let objects: Vec<&[u8]> = objects.collect();
                let begin =
                    format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"metadata\":{metadata},\"items\":[");
                [begin.as_bytes(), &objects.join(&b","[..]), b"]}"].concat()
            }
            Self::Protobuf => protobuf::list("List", metadata, objects),
        }
    }
}

/// One chunk of a body (RFC 9112, 7.1).
fn write_chunk(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write!(out, "{:x}\r\n", bytes.len())?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = BufWriter::with_capacity(PIECE, stream);
    while let Some((target, form)) = request(&mut input)? {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let has = |word: &str| query.split('&').any(|part| part == word);
        match Resource::of(path) {
            Some(resource) if has("watch=true") => {
                let initial = has("sendInitialEvents=true");
                return watch(resource, form, initial, output, shared);
            }
            Some(resource) => list(resource, form, &mut output, shared)?,
            None => answer(&mut output, Form::Json, "404 Not Found", br#"{"kind":"Status","code":404}"#)?,
        }
    }
    Ok(())
}

/// Reads a request and its body, if any; returns the target and the wanted encoding, or `None` when the client is gone.
fn request(input: &mut impl BufRead) -> io::Result<Option<(String, Form)>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut form) = (0, Form::Json);
    loop {
        line.clear();
        input.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("accept") => {
                if value.trim().starts_with(Form::Protobuf.content_type()) {
                    form = Form::Protobuf;
                }
            }
            Some(_) => {}
            None => break,
        }
    }
    io::copy(&mut input.take(length), &mut io::sink())?;
    Ok(Some((target, form)))
}

fn answer(output: &mut impl Write, form: Form, status: &str, body: &[u8]) -> io::Result<()> {
    write!(
        output,
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
        form.content_type(),
        body.len()
    )?;
    output.write_all(body)?;
    output.flush()
}

fn list(resource: Resource, form: Form, output: &mut impl Write, shared: &Mutex<Shared>) -> io::Result<()> {
    let body = {
        let shared = lock(shared);
        let metadata = json!({"resourceVersion": shared.version.to_string()});
        form.list(&metadata, shared.of(resource, form))
    };
    answer(output, form, "200 OK", &body)
}

/// Begins a watch; [`Shared::tell`] writes the changes that follow.
fn watch(
    resource: Resource,
    form: Form,
    initial: bool,
    mut output: BufWriter<TcpStream>,
    shared: &Mutex<Shared>,
) -> io::Result<()> {
    write!(
        output,
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        form.content_type()
    )?;
    // Held throughout, so that no change gets lost between the list and the watch.
    let mut shared = lock(shared);
    if initial {
        let mut piece = Vec::with_capacity(2 * PIECE);
        for object in shared.of(resource, form) {
            form.push_event(&mut piece, "ADDED", object);
            if piece.len() >= PIECE {
                write_chunk(&mut output, &piece)?;
                piece.clear();
            }
        }
        let end = json!({"metadata": {
            "resourceVersion": shared.version.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"},
        }});
        form.push_event(&mut piece, "BOOKMARK", &form.encode(resource, &end));
        write_chunk(&mut output, &piece)?;
    }
    let stream = output.into_inner()?;
    if initial {
        shared.listed.insert(resource, Instant::now());
    }
    shared.watches.push((resource, form, stream));
    Ok(())
}

impl Shared {
    fn of(&self, resource: Resource, form: Form) -> impl Iterator<Item = &[u8]> {
        let objects = self.objects.range((resource, String::new())..);
        objects
            .take_while(move |((of, _), _)| *of == resource)
            .map(move |(_, object)| &*object[form as usize])
    }
}
