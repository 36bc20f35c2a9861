//! The documentation: the manual in `deploy/README.md`, and what the front page says about it.

use std::path::{Path, PathBuf};

use crate::read;

pub(crate) const MANUAL: &str = "deploy/README.md";
const FRONT_PAGE: &str = "README.md";

pub(crate) fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The code blocks of a text, one string each.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(command) => blocks.last_mut().expect("the first one").extend([command, "\n"]),
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The commands in the manual, one string per code block.
pub(crate) fn procedures() -> Vec<String> {
    blocks(&read(&document(MANUAL)))
}

/// The lines of a block, without comments.
fn commands(block: &str) -> Vec<&str> {
    block.lines().map(|line| line.split("   #").next().unwrap_or_default().trim_end()).collect()
}

/// The front page has the shortest way; following it must not differ from following the manual.
#[test]
fn the_commands_of_the_front_page_are_those_of_the_manual_in_the_same_order() {
    let page = read(&document(FRONT_PAGE));
    let (_, section) = page.split_once("\n### In the place of kube-proxy\n").expect("the section");
    let section = section.split("\n### ").next().unwrap_or_default();
    assert!(section.contains(&format!("]({MANUAL})")), "no link to the manual:\n{section}");
    let short = blocks(section);
    assert_eq!(short.len(), 2, "there and back: {short:?}");
    let procedures = procedures();
    for block in &short {
        let is_in = |procedure: &String| {
            let mut left = commands(procedure).into_iter();
            commands(block).iter().all(|command| left.any(|other| other == *command))
        };
        assert!(procedures.iter().any(is_in), "no procedure of the manual has these:\n{block}");
    }
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let mut count = 0;
    for name in [FRONT_PAGE, MANUAL] {
        let text = read(&document(name));
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.starts_with("https://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => document(name),
                file => document(name).parent().expect("a folder").join(file),
            };
            let text = read(&path);
            let mut anchors = text
                .lines()
                .filter_map(|line| line.strip_prefix('#'))
                .map(|line| anchor(line.trim_start_matches('#').trim_start()));
            assert!(heading.is_empty() || anchors.any(|anchor| anchor == heading), "{name}: {target}");
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}
