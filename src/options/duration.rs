//! Durations as Go's `time` package reads and prints them: `1h30m`, `1.5s`, `15m0s`.
//!
//! Flags, the configuration file and the log of kube-proxy all use this grammar. The crates that implement it differ
//! from it (one rejects `0`, another panics on `100µs`), and general duration crates have another grammar (`1d`,
//! blanks).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time in nanoseconds, possibly negative; what Go calls `time.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    nanoseconds: i64,
}

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing that could be read as a number with a unit.
    #[error("not a duration: write a number with its unit, such as 90s, 15m or 1h30m")]
    Malformed,
    /// A number without a unit.
    #[error("a duration needs a unit: write for example 90s, 15m or 1h30m")]
    MissingUnit,
    /// A unit that does not exist.
    #[error("unknown unit in a duration: allowed are ns, us, ms, s, m and h")]
    UnknownUnit,
    /// More than 292 years.
    #[error("longer than any duration can be (2562047h47m16s)")]
    Overflow,
}

const SECOND: u64 = 1_000_000_000;
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // micro sign
    ("\u{3bc}s", 1_000), // Greek letter mu
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

/// The absolute value of Go's smallest duration: the one value whose negation does not fit.
const LIMIT: u64 = 1 << 63;

impl GoDuration {
    /// No time.
    pub const ZERO: Self = Self { nanoseconds: 0 };

    /// This many nanoseconds.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self { nanoseconds }
    }

    /// This many seconds.
    pub const fn from_seconds(seconds: u32) -> Self {
        Self { nanoseconds: seconds as i64 * SECOND.cast_signed() }
    }

    /// The length in nanoseconds.
    pub const fn nanoseconds(self) -> i64 {
        self.nanoseconds
    }

    /// Whether it is less than zero.
    pub const fn is_negative(self) -> bool {
        self.nanoseconds < 0
    }

    /// The same as an unsigned duration; `None` when it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.nanoseconds).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        // The only number that needs no unit.
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(DurationError::Malformed);
        }
        let mut sum = 0_u64;
        while !rest.is_empty() {
            let (part, after) = parse_part(rest)?;
            sum = sum.checked_add(part).filter(|sum| *sum <= LIMIT).ok_or(DurationError::Overflow)?;
            rest = after;
        }
        let nanoseconds = if negative {
            0_i64.checked_sub_unsigned(sum).ok_or(DurationError::Overflow)?
        } else {
            i64::try_from(sum).map_err(|_| DurationError::Overflow)?
        };
        Ok(Self { nanoseconds })
    }
}

/// Reads one number with its unit from the beginning of `text`; also returns the rest.
fn parse_part(text: &str) -> Result<(u64, &str), DurationError> {
    let (whole_digits, rest) = split_digits(text);
    let (fraction_digits, rest) = match rest.strip_prefix('.') {
        Some(after_point) => split_digits(after_point),
        None => ("", rest),
    };
    if whole_digits.is_empty() && fraction_digits.is_empty() {
        return Err(DurationError::Malformed);
    }
    let unit_length = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_length);
    if unit.is_empty() {
        return Err(DurationError::MissingUnit);
    }
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError::UnknownUnit)?;

    let whole: u64 = match whole_digits {
        "" => 0,
        digits => digits.parse().map_err(|_| DurationError::Overflow)?,
    };
    let nanoseconds = whole
        .checked_mul(*unit)
        .and_then(|whole| whole.checked_add(fraction_of(fraction_digits, *unit)))
        .filter(|nanoseconds| *nanoseconds <= LIMIT)
        .ok_or(DurationError::Overflow)?;
    Ok((nanoseconds, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The nanoseconds that the digits after the point stand for. Computed in floating point as in Go, so that both round
/// to the same nanosecond; digits that do not fit 63 bits are ignored, also as in Go.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the rounding is part of the grammar, and the value is below one hour"
)]
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let mut value = 0_u64;
    let mut scale = 1_f64;
    for digit in digits.bytes().map(|digit| u64::from(digit - b'0')) {
        match value.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(next) if next <= LIMIT => value = next,
            _ => break,
        }
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

impl fmt::Display for GoDuration {
    /// `15m0s`, `1.5s`, `100µs`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.nanoseconds.unsigned_abs();
        if self.is_negative() {
            f.write_str("-")?;
        }
        match total {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{total}ns"),
            1_000..1_000_000 => write_decimal(f, total, 1_000, "\u{b5}s"),
            1_000_000..SECOND => write_decimal(f, total, 1_000_000, "ms"),
            _ => {
                let minutes = total / (60 * SECOND);
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write_decimal(f, total % (60 * SECOND), SECOND, "s")
            }
        }
    }
}

/// Writes `value / unit` with as many decimals as it needs.
fn write_decimal(f: &mut fmt::Formatter<'_>, value: u64, unit: u64, name: &str) -> fmt::Result {
    write!(f, "{}", value / unit)?;
    let remainder = value % unit;
    if remainder > 0 {
        let width = usize::try_from(unit.ilog10()).expect("at most 9");
        let decimals = format!("{remainder:0width$}");
        write!(f, ".{}", decimals.trim_end_matches('0'))?;
    }
    f.write_str(name)
}

#[cfg(test)]
mod tests;
