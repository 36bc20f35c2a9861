//! JSON that people can read: what fits on a line stands on one.

use serde::Serialize;

/// The longest line, indentation included, with an object on it: enough for all that there is to say of one endpoint.
const OBJECT_BYTES: usize = 200;
/// The longest line that ends with a list: of several sentences each has its own.
const LIST_BYTES: usize = 100;
const INDENTATION: usize = 2;

/// The value as text, with a line end.
pub(crate) fn text(value: &impl Serialize) -> String {
    let compact = serde_json::to_string(value).expect("texts, numbers, lists, and maps with text keys");
    let tokens = tokens(&compact);
    let mut text = String::new();
    let mut rest = &tokens[..];
    write(&mut rest, 0, 0, &mut text);
    text.push('\n');
    text
}

/// The tokens of compact JSON. A text with a colon behind it is a name.
fn tokens(compact: &str) -> Vec<&str> {
    let bytes = compact.as_bytes();
    let mut tokens = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let length = match bytes[start] {
            b'"' => text_length(&bytes[start..]),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            _ => bytes[start..].iter().take_while(|byte| !b"{}[],:".contains(byte)).count(),
        };
        tokens.push(&compact[start..start + length]);
        start += length;
    }
    tokens
}

/// How long the text is that these bytes begin with, quotes included.
fn text_length(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (index, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// Writes the value that the tokens begin with, and takes it from them. `used`: how much of the line stands there.
fn write(tokens: &mut &[&str], depth: usize, used: usize, text: &mut String) {
    let Some((first, rest)) = tokens.split_first() else { return };
    let length = if matches!(*first, "{" | "[") { container_length(tokens) } else { 1 };
    let fits = match *first {
        _ if length <= 2 => usize::MAX,
        // The whole.
        _ if depth == 0 => 0,
        "[" => LIST_BYTES,
        _ => OBJECT_BYTES,
    };
    let one_line = || tokens[..length].iter().map(|token| spaced(token));
    if used + one_line().map(str::len).sum::<usize>() <= fits {
        text.extend(one_line());
        *tokens = &tokens[length..];
        return;
    }
    text.push_str(first);
    *tokens = rest;
    let indented = (depth + 1) * INDENTATION;
    while let Some((token, rest)) = tokens.split_first().filter(|(token, _)| !matches!(**token, "}" | "]")) {
        if *token == "," {
            text.push(',');
            *tokens = rest;
        }
        text.push('\n');
        text.push_str(&" ".repeat(indented));
        let mut used = indented;
        if let [name, ":", rest @ ..] = *tokens {
            text.push_str(name);
            text.push_str(": ");
            used += name.len() + 2;
            *tokens = rest;
        }
        write(tokens, depth + 1, used, text);
    }
    text.push('\n');
    text.push_str(&" ".repeat(depth * INDENTATION));
    if let Some((last, rest)) = tokens.split_first() {
        text.push_str(last);
        *tokens = rest;
    }
}

/// A token on a line with others.
fn spaced(token: &str) -> &str {
    match token {
        "," => ", ",
        ":" => ": ",
        other => other,
    }
}

/// How many tokens belong to the list or object that these begin with.
fn container_length(tokens: &[&str]) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fits_stands_on_one_line() {
        let (long, longer) = ("x".repeat(90), "x".repeat(190));
        let value = json!({
            "a": {"b": [1, -2.5, null, true], "c": "d: {\"e\", [\\"},
            "list": [{"x": long, "y": 1}, {"x": longer, "y": 1}],
            "none": [],
            "texts": [long, ""],
        });
        let wanted = format!(
            r#"{{
  "a": {{"b": [1, -2.5, null, true], "c": "d: {{\"e\", [\\"}},
  "list": [
    {{"x": "{long}", "y": 1}},
    {{
      "x": "{longer}",
      "y": 1
    }}
  ],
  "none": [],
  "texts": [
    "{long}",
    ""
  ]
}}
"#
        );
        assert_eq!(text(&value), wanted);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&wanted).unwrap(), value);
        for small in [json!("a,b"), json!({}), json!([]), json!(7)] {
            assert_eq!(text(&small), format!("{small}\n"));
        }
    }
}
