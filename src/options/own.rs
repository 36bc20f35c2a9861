//! What kube-proxy does not have: the section `kubeIPVS` of the configuration file, and environment variables.
//!
//! There are no flags for these, on purpose: an unknown flag ends kube-proxy, while it ignores an unknown section and
//! an unknown variable. So the way back to it needs no edit.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::configuration::{FromValue, Loose, read};
use super::duration::GoDuration;
use super::proxy::ProxyOptions;
use super::settings::Notice;

/// What the names of our environment variables begin with.
const PREFIX: &str = "KUBE_IPVS_";

/// The section `kubeIPVS`. Each field has an environment variable too, which beats the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping")]
pub struct Own {
    /// `KUBE_IPVS_DRAIN_DEADLINE`: how long an endpoint that is gone keeps its open connections at most.
    #[serde(deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub drain_deadline: Option<GoDuration>,
    /// `KUBE_IPVS_ESTIMATOR`: whether the kernel estimates the rates of IPVS.
    #[serde(deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub estimator: Option<Estimator>,
    /// `KUBE_IPVS_SLOPPY_SCTP`: whether an SCTP association may begin with any packet, which multi-homed peers need.
    #[serde(rename = "sloppySCTP", deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub sloppy_sctp: Option<bool>,
    /// `KUBE_IPVS_WATCH_ALL_NODES`: whether the addresses of all nodes are looked at, so that an external IP that is
    /// another node's does not cut that one off.
    #[serde(deserialize_with = "read", skip_serializing_if = "Option::is_none")]
    pub watch_all_nodes: Option<bool>,
}

impl Own {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what the environment says. A blank value says nothing: it is what a template makes of a value that
    /// nobody gave. Variables of our prefix that mean nothing are named in a notice.
    ///
    /// # Errors
    /// What is wrong with the first variable that is wrong.
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

    /// How long an endpoint that is gone keeps its open connections at most.
    ///
    /// # Errors
    /// It is shorter than nothing.
    pub(super) fn checked_drain_deadline(&self) -> Result<Duration, String> {
        self.drain_deadline.map_or(Ok(ProxyOptions::default().drain_deadline), checked)
    }
}

/// A deadline that is no shorter than nothing.
fn checked(deadline: GoDuration) -> Result<Duration, String> {
    deadline.to_std().ok_or_else(|| format!("Invalid value: \"{deadline}\": must be 0 or longer"))
}

/// Whether Kubernetes has put a variable into the environment of a pod for a Service whose name begins like ours:
/// `KUBE_IPVS_SERVICE_HOST`, `KUBE_IPVS_METRICS_PORT_80_TCP`.
fn is_of_a_service(setting: &str) -> bool {
    setting.contains("SERVICE_") || setting.split('_').any(|word| word == "PORT")
}

/// A value of the environment, read as in the configuration file.
fn value_of<T: FromValue>(text: &OsString) -> Result<T, String> {
    let text = text.to_str().ok_or("must be UTF-8")?;
    // As YAML reads it: `true` is a truth value, `15m` a text.
    let value = serde_yaml::from_str(text).map(|Loose(value)| value);
    T::from_value(value.map_err(|error| error.to_string())?)
}

/// Whether the kernel estimates the rates of IPVS (`net.ipv4.vs.run_estimation`).
///
/// The estimator walks all virtual and real servers, and the counters of every processor for each, every two seconds.
/// Before Linux 6.2 it does so in one go in a timer, which holds up packets on that processor: for 10 to 200 ms where
/// there are many of both. Since 6.2 threads do it in small steps. Without it `ipvsadm --rate` shows zeros, and
/// `ipvsadm --stats` stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimator {
    /// Off on a kernel before 6.2 with 16 processors or more; otherwise left alone.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
    /// As somebody else has set it.
    Keep,
}

/// The first kernel whose estimator works in small steps.
const ESTIMATES_IN_STEPS: (u32, u32) = (6, 2);
/// From how many processors on the older one is a trouble.
const MANY_PROCESSORS: u32 = 16;

impl Estimator {
    const WORDS: [(&str, Self); 4] =
        [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off), ("keep", Self::Keep)];

    /// Whether it should run on this kernel (major and minor version) with so many processors; `None`: as it is.
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
        // YAML 1.1 has `on` and `off` as truth values, and some tools write them so.
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
