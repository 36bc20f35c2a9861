//! Kernel parameters: files below `/proc/sys`. Those of `net` belong to the network namespace of the calling thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::{Outcome, Refusal};
use crate::state::Sysctl;

/// The longest value: the parameters read here are numbers.
const LONGEST_VALUE: usize = 255;

/// Sets a parameter. A kernel that does not have it refuses with `ENOENT`.
pub(crate) fn write(sysctl: Sysctl, value: &str) -> Outcome {
    // Not `fs::write`, which creates missing files: /proc/sys answers that with "permission denied".
    let file = OpenOptions::new().write(true).open(path(sysctl));
    match file.and_then(|mut file| file.write_all(value.as_bytes())) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Refused(Refusal::of(&error)),
    }
}

/// The value of a parameter; `None`: the kernel does not have it.
pub(crate) fn read(sysctl: Sysctl) -> io::Result<Option<String>> {
    match File::open(path(sysctl)) {
        Ok(mut file) => value(&mut file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the value in a file. The kernel returns all of it in one read, so neither the end nor the size is asked for.
fn value(file: &mut impl Read) -> io::Result<String> {
    let mut buffer = [0; LONGEST_VALUE + 1];
    let length = file.read(&mut buffer)?;
    if length > LONGEST_VALUE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the value is longer than 255 bytes"));
    }
    let value = str::from_utf8(&buffer[..length]).map_err(io::Error::other)?;
    Ok(value.trim_end().to_owned())
}

/// Whether the kernel has a parameter.
pub fn is_there(sysctl: Sysctl) -> bool {
    path(sysctl).exists()
}

fn path(sysctl: Sysctl) -> PathBuf {
    PathBuf::from("/proc/sys").join(sysctl.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that can be read only once.
    struct Once(Option<&'static [u8]>);

    impl Read for Once {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.take().expect("nobody reads twice").read(buffer)
        }
    }

    fn value_of(text: &'static [u8]) -> io::Result<String> {
        value(&mut Once(Some(text)))
    }

    #[test]
    fn a_value_is_asked_for_once() {
        assert_eq!(value_of(b"1\n").unwrap(), "1");
        assert_eq!(value_of(b"").unwrap(), "");
    }

    #[test]
    fn what_does_not_fit_is_no_value() {
        assert_eq!(value_of(&[b'1'; LONGEST_VALUE]).unwrap(), "1".repeat(LONGEST_VALUE));
        assert!(value_of(&[b'1'; LONGEST_VALUE + 1]).is_err());
        assert!(value_of(b"\xff").is_err());
    }
}
