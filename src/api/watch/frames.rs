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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::watch::encoding::WatchEvent::Bookmark;

    /// The versions of all bookmarks in this body, and how it ends.
    async fn versions(encoding: Encoding, body: Vec<u8>) -> (Vec<String>, Result<(), Failure>) {
        let mut frames = Frames::of(Answer { encoding, body: Body::from(body) });
        let mut versions = Vec::new();
        loop {
            match frames.next(Duration::from_secs(1)).await {
                Ok(Some(Bookmark { version, .. })) => {
                    versions.extend(version.map(|version| version.to_string()));
                }
                Ok(Some(_)) => panic!("no bookmark"),
                Ok(None) => return (versions, Ok(())),
                Err(failure) => return (versions, Err(failure)),
            }
        }
    }

    fn line(version: u32) -> String {
        format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{version}\"}}}}}}\n"
        )
    }

    #[tokio::test]
    async fn a_line_is_an_event_and_an_empty_one_is_none() {
        let body = format!("\n{}\n\n{}{}", line(7), line(8), line(9).trim_end());
        let (versions, end) = versions(Encoding::Json, body.into_bytes()).await;
        assert_eq!(
            (versions, end),
            (vec!["7".to_owned(), "8".to_owned()], Ok(())),
            "the last one was cut off"
        );
    }

    #[tokio::test]
    async fn an_event_without_an_end_is_not_waited_for() {
        let mut body = line(7).into_bytes();
        body.resize(body.len() + LIMIT_BYTES + 1, b' ');
        assert_eq!(versions(Encoding::Json, body).await, (vec!["7".to_owned()], Err(too_long())));
        let message_of = |length: usize| u32::try_from(length).expect("a short one").to_be_bytes().to_vec();
        let (_, end) = versions(Encoding::Protobuf, message_of(LIMIT_BYTES)).await;
        assert_eq!(end, Ok(()), "as long as is allowed, and cut off");
        let (_, end) = versions(Encoding::Protobuf, message_of(LIMIT_BYTES + 1)).await;
        assert_eq!(end, Err(too_long()));
    }
}
