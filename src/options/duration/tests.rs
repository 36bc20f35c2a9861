use super::{DurationError, GoDuration};

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

#[test]
fn reads_what_go_reads() {
    for (text, nanoseconds) in [
        ("0", 0),
        ("-0", 0),
        ("+0", 0),
        ("0s", 0),
        ("0.0s", 0),
        ("5s", 5 * SECOND),
        ("+5s", 5 * SECOND),
        ("-5s", -5 * SECOND),
        ("-1s", -SECOND),
        ("1478s", 1478 * SECOND),
        ("5.0s", 5 * SECOND),
        ("5.6s", 5_600_000_000),
        ("5.s", 5 * SECOND),
        (".5s", SECOND / 2),
        ("-.5s", -SECOND / 2),
        ("1.0s", SECOND),
        ("1.004s", 1_004_000_000),
        ("1.5h", 90 * MINUTE),
        ("10ns", 10),
        ("11us", 11_000),
        ("100\u{b5}s", 100_000),
        ("100\u{3bc}s", 100_000),
        ("13ms", 13_000_000),
        ("3h30m", 3 * HOUR + 30 * MINUTE),
        ("15m0s", 15 * MINUTE),
        ("24h0m0s", 24 * HOUR),
        ("10.5s4m", 4 * MINUTE + 10_500_000_000),
        ("-2m3.4s", -(2 * MINUTE + 3_400_000_000)),
        ("1h3m2.5s500ms", HOUR + 3 * MINUTE + 3 * SECOND),
        ("0.3333333333333333333h", 20 * MINUTE),
        ("0.100000000000000000000h", 6 * MINUTE),
        ("9007199254740993ns", 9_007_199_254_740_993),
        ("9223372036854775807ns", i64::MAX),
        ("-9223372036854775808ns", i64::MIN),
        ("-9223372036854775.808us", i64::MIN),
    ] {
        assert_eq!(text.parse(), Ok(GoDuration::from_nanoseconds(nanoseconds)), "{text}");
    }
}

#[test]
fn rejects_what_go_rejects() {
    use DurationError::{Malformed, MissingUnit, Overflow, UnknownUnit};
    for (text, error) in [
        ("", Malformed),
        ("-", Malformed),
        ("+", Malformed),
        (".", Malformed),
        (".s", Malformed),
        ("-.s", Malformed),
        ("s", Malformed),
        (" 1s", Malformed),
        ("--1s", Malformed),
        ("3", MissingUnit),
        ("30", MissingUnit),
        ("1h3", MissingUnit),
        ("1.5", MissingUnit),
        ("1d", UnknownUnit),
        ("1S", UnknownUnit),
        ("1h 3m", UnknownUnit),
        ("1s ", UnknownUnit),
        ("3000000h", Overflow),
        ("9223372036854775808ns", Overflow),
        ("9223372036854775.808us", Overflow),
        ("-9223372036854775809ns", Overflow),
        ("9223372036854ms775us808ns", Overflow),
        ("99999999999999999999s", Overflow),
    ] {
        assert_eq!(text.parse::<GoDuration>(), Err(error), "{text:?}");
    }
}

#[test]
fn prints_what_go_prints() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1\u{b5}s"),
        (2_200_000, "2.2ms"),
        (999_999_999, "999.999999ms"),
        (SECOND, "1s"),
        (3_300_000_000, "3.3s"),
        (30 * SECOND, "30s"),
        (MINUTE, "1m0s"),
        (4 * MINUTE + 5 * SECOND, "4m5s"),
        (4 * MINUTE + 5_001_000_000, "4m5.001s"),
        (15 * MINUTE, "15m0s"),
        (5 * HOUR + 6 * MINUTE + 7_001_000_000, "5h6m7.001s"),
        (24 * HOUR, "24h0m0s"),
        (8 * MINUTE + 1, "8m0.000000001s"),
        (-90 * SECOND, "-1m30s"),
        (i64::MAX, "2562047h47m16.854775807s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        assert_eq!(GoDuration::from_nanoseconds(nanoseconds).to_string(), text);
    }
}

proptest::proptest! {
    #[test]
    fn what_is_printed_is_read_back(nanoseconds: i64) {
        let duration = GoDuration::from_nanoseconds(nanoseconds);
        proptest::prop_assert_eq!(duration.to_string().parse(), Ok(duration));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-+]?([0-9]{0,20}\\.?[0-9]{0,20}[a-zµμ]{0,2} ?){0,3}") {
        let _ = text.parse::<GoDuration>();
    }
}
