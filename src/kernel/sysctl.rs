//! Kernel parameters: files below `/proc/sys`. Those of `net` are the calling thread's network namespace's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use super::{Outcome, Refusal};
use crate::state::Sysctl;

/// Sets a parameter. A kernel that does not have it refuses with `ENOENT`.
pub(crate) fn write(sysctl: Sysctl, value: &str) -> Outcome {
    // Not `fs::write`: asked to make a file that is not there, /proc/sys says "permission denied".
    let file = OpenOptions::new().write(true).open(path(sysctl));
    match file.and_then(|mut file| file.write_all(value.as_bytes())) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Refused(Refusal::of(&error)),
    }
}

/// The value of a parameter; `None`: the kernel does not have it.
pub(crate) fn read(sysctl: Sysctl) -> io::Result<Option<String>> {
    match fs::read_to_string(path(sysctl)) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the kernel has a parameter.
pub fn is_there(sysctl: Sysctl) -> bool {
    path(sysctl).exists()
}

fn path(sysctl: Sysctl) -> PathBuf {
    PathBuf::from("/proc/sys").join(sysctl.path())
}
