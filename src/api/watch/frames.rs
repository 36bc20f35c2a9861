//! Splits the body of a watch, which comes in pieces, into events.

use std::ops::Range;
use std::time::Duration;

use kube::client::Body;
use memchr::memchr;

use super::encoding::{Encoding, WatchEvent};
use super::failure::Failure;
use super::http::{Answer, Silence, read_more};

/// The longest event that is accepted, in bytes. etcd refuses objects of more than 1.5 MiB.
const LIMIT_BYTES: usize = 16 << 20;
/// How many bytes give the length of an event.
const PREFIX_BYTES: usize = 4;

/// The events of an open watch.
pub(super) struct Frames {
    encoding: Encoding,
    body: Body,
    silence: Silence,
    buffer: Vec<u8>,
    /// Where the next event begins.
    start: usize,
    /// The end of the part, from `start` on, that is known to have no line end.
    searched: usize,
}

impl Frames {
    /// The events of this answer.
    pub(super) fn of(Answer { encoding, body }: Answer) -> Self {
        Self { encoding, body, silence: Silence::default(), buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// The next event; `None` at the end of the body. A last event that was cut off does not count.
    pub(super) async fn next(&mut self, limit: Duration) -> Result<Option<WatchEvent<'_>>, Failure> {
        let frame = loop {
            if let Some(frame) = self.complete()? {
                break frame;
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.searched = self.buffer.len();
            if self.searched > LIMIT_BYTES {
                return Err(too_long());
            }
            let more = read_more(&mut self.body, &mut self.buffer);
            if !self.silence.limit(more, limit).await? {
                return Ok(None);
            }
        };
        self.encoding.event(&self.buffer[frame]).map(Some)
    }

    /// Where the next event is, if it is complete.
    fn complete(&mut self) -> Result<Option<Range<usize>>, Failure> {
        match self.encoding {
            Encoding::Protobuf => self.complete_message(),
            Encoding::Json => Ok(self.complete_line()),
        }
    }

    /// A message follows its length in bytes, big-endian.
    fn complete_message(&mut self) -> Result<Option<Range<usize>>, Failure> {
        let Some((prefix, rest)) = self.buffer[self.start..].split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > LIMIT_BYTES {
            return Err(too_long());
        }
        if rest.len() < length {
            return Ok(None);
        }
        let begin = self.start + PREFIX_BYTES;
        self.start = begin + length;
        Ok(Some(begin..self.start))
    }

    /// The next line that is not empty.
    fn complete_line(&mut self) -> Option<Range<usize>> {
        while let Some(length) = memchr(b'\n', &self.buffer[self.searched..]) {
            let line = self.start..self.searched + length;
            self.start = line.end + 1;
            self.searched = self.start;
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    }
}

fn too_long() -> Failure {
    Failure::Malformed(format!("a watch event of more than {LIMIT_BYTES} bytes"))
}
