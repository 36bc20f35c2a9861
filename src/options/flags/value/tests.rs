use super::*;

#[test]
fn lists_are_a_line_of_csv() {
    let around = Err("quotes must stand around whole items of the list");
    let unclosed = Err("must end with a quote where an item begins with one");
    for (text, wanted) in [
        ("", Ok(&[][..])),
        ("a", Ok(&["a"])),
        ("a, b", Ok(&["a", " b"])),
        ("a,,b,", Ok(&["a", "", "b", ""])),
        (",", Ok(&["", ""])),
        (r#""10.0.0.0/8""#, Ok(&["10.0.0.0/8"])),
        (r#""a","b",c"#, Ok(&["a", "b", "c"])),
        (r#""a,b""#, Ok(&["a,b"])),
        (r#""c""d","""","""#, Ok(&["c\"d", "\"", ""])),
        ("a,b\n", Ok(&["a", "b"])),
        ("a,b\r\n", Ok(&["a", "b"])),
        ("\n\na\nb", Ok(&["a"])),
        ("\"a\nb\",c", Ok(&["a\nb", "c"])),
        (r#"a""b"#, around),
        (r#" "a""#, around),
        (r#""a"b"#, around),
        (r#""a" "#, around),
        (r#""""a"#, unclosed),
        (r#""a,b"#, unclosed),
        (r#"a,""#, unclosed),
    ] {
        let wanted = wanted.map(|fields| fields.iter().map(ToString::to_string).collect());
        assert_eq!(fields(text), wanted, "{text:?}");
    }
}

#[test]
fn a_comma_too_many_says_nothing_where_a_list_is_no_csv() {
    assert_eq!(pairs(",a=1,,b=2,").collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(pairs("").count(), 0);
}

#[test]
fn levels_are_decimal() {
    let refused = Err("must be a whole number");
    for (text, wanted) in [
        ("4", Ok(4)),
        ("010", Ok(10)),
        ("08", Ok(8)),
        ("-1", Ok(-1)),
        ("2147483648", Err("must be within -2147483648 and 2147483647")),
        ("0x1", refused),
        ("1_0", refused),
        ("+1", refused),
        ("-", refused),
        ("", refused),
    ] {
        assert_eq!(level(text), wanted.map_err(str::to_owned), "{text:?}");
    }
    assert_eq!(module_verbosity("a=010").map(|module| module.verbosity), Ok(10));
    assert!(module_verbosity("a=0x1").is_err() && module_verbosity("a=-1").is_err());
}

#[test]
fn numbers() {
    for (text, wanted) in [
        ("14", Ok(14)),
        ("0x1F", Ok(31)),
        ("016", Ok(14)),
        ("0o16", Ok(14)),
        ("0b1110", Ok(14)),
        ("-1", Ok(-1)),
        ("+1", Ok(1)),
        ("0", Ok(0)),
        ("00", Ok(0)),
        ("131_072", Ok(131_072)),
        ("0x_1_f", Ok(31)),
        ("0_16", Ok(14)),
        ("0o_16", Ok(14)),
        ("0b1_0", Ok(2)),
        ("_1", Err("must be a whole number")),
        ("1_", Err("must be a whole number")),
        ("1__0", Err("must be a whole number")),
        ("0_", Err("must be a whole number")),
        ("0__7", Err("must be a whole number")),
        ("0x10_", Err("must be a whole number")),
        ("-_1", Err("must be a whole number")),
        ("2147483647", Ok(2_147_483_647)),
        ("2147483648", Err("must be within -2147483648 and 2147483647")),
        ("08", Err("must be a whole number")),
        ("0x", Err("must be a whole number")),
        ("0x+1", Err("must be a whole number")),
        ("1.0", Err("must be a whole number")),
        ("", Err("must be a whole number")),
    ] {
        assert_eq!(integer(text), wanted.map_err(str::to_owned), "{text:?}");
    }
}
