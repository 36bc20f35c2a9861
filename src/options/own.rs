//! Settings that kube-proxy does not have: the section `kubeIPVS` of the configuration file, and environment variables.
//!
//! They have no flags, on purpose: an unknown flag ends kube-proxy, but it ignores an unknown section and an unknown
//! variable. So the way back to kube-proxy needs no edit.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::configuration::{FromValue, Loose, read};
use super::duration::GoDuration;
use super::proxy::ProxyOptions;
use super::settings::Notice;

/// The prefix of our environment variables.
const PREFIX: &str = "KUBE_IPVS_";

/// The section `kubeIPVS`. Each field also has an environment variable, which overrides the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping")]
pub struct Own {
    /// `KUBE_IPVS_DRAIN_DEADLINE`: how long a removed endpoint keeps its open connections at most.
    #[serde(deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub drain_deadline: Option<GoDuration>,
    /// `KUBE_IPVS_ESTIMATOR`: whether the kernel estimates the traffic rates of IPVS.
    #[serde(deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub estimator: Option<Estimator>,
    /// `KUBE_IPVS_SLOPPY_SCTP`: whether an SCTP association may begin with any packet, which multi-homed peers need.
    #[serde(rename = "sloppySCTP", deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub sloppy_sctp: Option<bool>,
    /// `KUBE_IPVS_WATCH_ALL_NODES`: whether the addresses of all nodes are watched, so that an external IP that belongs
    /// to another node does not cut that node off.
    #[serde(deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub watch_all_nodes: Option<bool>,
}

impl Own {
    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over the environment's values. A blank value counts as not set: a template produces it for a value that
    /// nobody gave. Unknown variables with our prefix are named in a notice.
    ///
    /// # Errors
    /// What is wrong with the first wrong variable.
    pub(super) fn read_environment(
        &mut self,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<Notice>, String> {
        let mut notices = Vec::new();
        for (name, value) in environment {
            let Some(setting) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let blank = value.to_str().is_some_and(|value| value.trim().is_empty());
            let set = match setting {
                "DRAIN_DEADLINE" | "ESTIMATOR" | "SLOPPY_SCTP" | "WATCH_ALL_NODES" if blank => Ok(()),
                "DRAIN_DEADLINE" => value_of(&value).and_then(|value| {
                    checked(value)?;
                    self.drain_deadline = Some(value);
                    Ok(())
                }),
                "ESTIMATOR" => value_of(&value).map(|value| self.estimator = Some(value)),
                "SLOPPY_SCTP" => value_of(&value).map(|value| self.sloppy_sctp = Some(value)),
                "WATCH_ALL_NODES" => value_of(&value).map(|value| self.watch_all_nodes = Some(value)),
                _ if is_of_a_service(setting) => Ok(()),
                _ => {
                    notices
                        .push(Notice::warning("Unknown environment variable", format!("{PREFIX}{setting}")));
                    Ok(())
                }
            };
            set.map_err(|problem| format!("{PREFIX}{setting}: {problem}"))?;
        }
        Ok(notices)
    }

    /// How long a removed endpoint keeps its open connections at most.
    ///
    /// # Errors
    /// The deadline is negative.
    pub(super) fn checked_drain_deadline(&self) -> Result<Duration, String> {
        self.drain_deadline.map_or(Ok(ProxyOptions::default().drain_deadline), checked)
    }
}

/// Checks that a deadline is not negative.
fn checked(deadline: GoDuration) -> Result<Duration, String> {
    deadline.to_std().ok_or_else(|| format!("Invalid value: \"{deadline}\": must be 0 or longer"))
}

/// Whether Kubernetes put this variable into the environment of the pod for a Service whose name begins like our
/// prefix: `KUBE_IPVS_SERVICE_HOST`, `KUBE_IPVS_METRICS_PORT_80_TCP`.
fn is_of_a_service(setting: &str) -> bool {
    setting.contains("SERVICE_") || setting.split('_').any(|word| word == "PORT")
}

/// A value of the environment, read as in the configuration file.
fn value_of<T: FromValue>(text: &OsString) -> Result<T, String> {
    let text = text.to_str().ok_or("must be UTF-8")?;
    // Parsed as YAML: `true` is a boolean, `15m` a string.
    let value = serde_yaml::from_str(text).map(|Loose(value)| value);
    T::from_value(value.map_err(|error| error.to_string())?)
}

/// Whether the kernel estimates the rates of IPVS (`net.ipv4.vs.run_estimation`).
///
/// Every two seconds, the estimator walks all virtual and real servers and, for each, the counters of every processor.
/// Before Linux 6.2 a timer does this in one go, which delays packets on that processor: by 10 to 200 ms where there
/// are many servers and processors. Since 6.2 threads do it in small steps. Without the estimator, `ipvsadm --rate`
/// shows zeros, and `ipvsadm --stats` does not advance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimator {
    /// Off on a kernel before 6.2 with 16 processors or more; otherwise left alone.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
    /// Whatever somebody else has set.
    Keep,
}

/// The first kernel whose estimator works in small steps.
const ESTIMATES_IN_STEPS: (u32, u32) = (6, 2);
/// From this number of processors on, the older estimator is a problem.
const MANY_PROCESSORS: u32 = 16;

impl Estimator {
    const WORDS: [(&str, Self); 4] =
        [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off), ("keep", Self::Keep)];

    /// Whether it should run on this kernel (major and minor version) with so many processors; `None`: leave it as it
    /// is.
    pub fn should_run(self, kernel: (u32, u32), processors: u32) -> Option<bool> {
        match self {
            Self::Auto if kernel < ESTIMATES_IN_STEPS && processors >= MANY_PROCESSORS => Some(false),
            Self::Auto | Self::Keep => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

impl FromStr for Estimator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = Self::WORDS.iter().find(|(word, _)| *word == text);
        word.map(|(_, estimator)| *estimator)
            .ok_or_else(|| format!("Invalid value: {text:?}: must be auto, on, off or keep"))
    }
}

impl fmt::Display for Estimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, estimator)| estimator == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromValue for Estimator {
    fn from_value(value: serde_yaml::Value) -> Result<Self, String> {
        // In YAML 1.1 `on` and `off` are booleans, and some tools write them as such.
        match value {
            serde_yaml::Value::Bool(true) => Ok(Self::On),
            serde_yaml::Value::Bool(false) => Ok(Self::Off),
            other => String::from_value(other)?.parse(),
        }
    }
}

impl Serialize for Estimator {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
