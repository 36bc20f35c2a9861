//! Which form of a page is accepted: what `Accept` asks for, as Kubernetes' servers understand it
//! (k8s.io/apiserver, endpoints/handlers/negotiation).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// The API group of structured forms.
pub(super) const GROUP: &str = "config.k8s.io";
/// All versions have the same fields.
pub(super) const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];

/// A form of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines for people.
    Text,
    /// An object, in this version of the API.
    Structured(Encoding, &'static str),
}

/// How an object is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Yaml,
}

impl Encoding {
    /// Both, the preferred one first.
    const ALL: [Self; 2] = [Self::Json, Self::Yaml];

    /// The media type without parameters.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

impl Form {
    /// The first form asked for that exists; the text, if none is asked for.
    pub(super) fn accepted(headers: &HeaderMap, kind: &str) -> Option<Self> {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(',')).filter(|range| !range.trim().is_empty());
        let mut ranges: Vec<_> = ranges.map(Range::parse).collect();
        if ranges.is_empty() {
            return Some(Self::Text);
        }
        ranges.sort_by_key(Range::rank);
        ranges.iter().find_map(|range| range.form(kind))
    }
}

/// A media range (RFC 9110, 12.5.1).
struct Range<'a> {
    media_type: &'a str,
    parameters: BTreeMap<&'a str, &'a str>,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        Self { media_type, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
    }

    /// The order in which ranges are tried: by quality, in thousandths, then the more specific one first.
    fn rank(&self) -> (Reverse<u16>, usize) {
        let quality = self.parameters.get("q").and_then(|quality| quality.parse::<f32>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let thousandths = (quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u16;
        (Reverse(thousandths), self.media_type.matches('*').count())
    }

    /// The form that the range stands for. An object needs its full name, the text no name.
    fn form(&self, kind: &str) -> Option<Form> {
        let named = ["g", "v", "as"].map(|name| self.parameters.get(name).copied());
        match named {
            [None, None, None] => self.covers("text/plain").then_some(Form::Text),
            [Some(GROUP), Some(version), Some(of)] if of == kind => {
                let version = VERSIONS.into_iter().find(|known| *known == version)?;
                let encoding =
                    Encoding::ALL.into_iter().find(|encoding| self.covers(encoding.media_type()))?;
                Some(Form::Structured(encoding, version))
            }
            _ => None,
        }
    }

    fn covers(&self, media_type: &str) -> bool {
        let of_type = |range: &str| media_type.split_once('/').is_some_and(|(of, _)| of == range);
        self.media_type == "*/*"
            || self.media_type == media_type
            || self.media_type.strip_suffix("/*").is_some_and(of_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_negotiated() {
        let json = |version| Some(Form::Structured(Encoding::Json, version));
        let yaml = Some(Form::Structured(Encoding::Yaml, "v1beta1"));
        let full = "v=v1beta1;g=config.k8s.io;as=Statusz";
        for (accept, form) in [
            (None, Some(Form::Text)),
            (Some(""), Some(Form::Text)),
            (Some(" "), Some(Form::Text)),
            (Some("*/*"), Some(Form::Text)),
            (Some("text/plain"), Some(Form::Text)),
            (Some("text/plain;version=0.0.4;q=0.2"), Some(Form::Text)),
            (Some("text/*"), Some(Form::Text)),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Some(Form::Text)),
            (Some("text/html"), None),
            (Some("application/json"), None),
            (Some("application/yaml"), None),
            (Some("application/json;v=v1beta1"), None),
            (Some("application/json;v=v1beta1;g=config.k8s.io"), None),
            (Some("application/json;v=v1beta1;g=config.k8s.io;as=Flagz"), None),
            (Some("application/yaml;v=v1beta1;g=config.k8s.io;as=Flagz"), None),
            (Some("application/json;v=v9;g=config.k8s.io;as=Statusz"), None),
            (Some(&format!("application/json;{full}")), json("v1beta1")),
            (Some("application/json; as=Statusz; g=config.k8s.io; v=v1alpha1"), json("v1alpha1")),
            (Some(&format!("application/yaml;{full}")), yaml),
            (Some(&format!("application/cbor;{full}")), None),
            (Some(&format!("text/plain;{full}")), None),
            (Some(&format!("*/*;{full}")), json("v1beta1")),
            (Some(&format!("application/*;{full}")), json("v1beta1")),
            (Some(&format!("application/json;{full};q=0.5, application/yaml;{full}")), yaml),
            (Some(&format!("*/*, application/yaml;{full}")), yaml),
            (Some("application/json, text/plain"), Some(Form::Text)),
            (Some("image/png"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(Form::accepted(&headers, "Statusz"), form, "{accept:?}");
        }
    }
}
