//! How errors name settings, and what is logged about settings.

use std::fmt;

/// Something to tell the user once logging works; never a reason to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How urgent it is.
    pub level: Level,
    /// The message of the log line.
    pub message: &'static str,
    /// What it is about: logged as `detail`, unless it is empty.
    pub detail: String,
}

/// How urgent a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nobody would miss it; logged from `-v=1` on.
    Detail,
    /// Good to know.
    Info,
    /// Most likely not what was meant.
    Warning,
}

impl Notice {
    /// A notice that nobody would miss.
    pub fn detail(message: &'static str, detail: String) -> Self {
        Self { level: Level::Detail, message, detail }
    }

    /// A notice that is good to know.
    pub fn info(message: &'static str, detail: String) -> Self {
        Self { level: Level::Info, message, detail }
    }

    /// A notice of something that is most likely not what was meant.
    pub fn warning(message: &'static str, detail: String) -> Self {
        Self { level: Level::Warning, message, detail }
    }
}

/// Where a setting came from, which decides by what name errors call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flags,
    /// The configuration file.
    File,
}

/// A setting under both its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The path of the field in the configuration file.
    pub field: &'static str,
}

impl Name {
    /// The setting as the user knows it.
    pub fn at(self, origin: Origin) -> Place {
        Place { name: self, origin }
    }
}

/// A setting as the user wrote it: `--ipvs-tcp-timeout`, or `KubeProxyConfiguration.ipvs.tcpTimeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    name: Name,
    origin: Origin,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Flags => write!(f, "--{}", self.name.flag),
            Origin::File => write!(f, "KubeProxyConfiguration.{}", self.name.field),
        }
    }
}
