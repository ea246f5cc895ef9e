//! The documents: every link in them leads to something that is there.

use std::fs;
use std::path::{Path, PathBuf};

/// README and what is in docs/.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(root.join("docs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let markdown = paths.filter(|path| path.extension().is_some_and(|end| end == "md"));
    markdown.chain([root.join("README.md")]).collect()
}

/// What a heading is linked to by, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Why a link of a document leads nowhere, if it does not.
fn broken(document: &Path, link: &str) -> Option<String> {
    if link.starts_with("https://") {
        return None;
    }
    let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
    let path = if file.is_empty() { document.to_owned() } else { document.with_file_name(file) };
    let Ok(content) = fs::read(&path) else {
        return Some(format!("{}: {link}: no such file", document.display()));
    };
    let text = String::from_utf8_lossy(&content);
    let is_there = wanted.is_empty()
        || text.lines().any(|line| line.starts_with('#') && anchor(line) == wanted);
    (!is_there).then(|| format!("{}: {link}: no such heading", document.display()))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let mut links = 0;
    let mut dead = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for rest in text.split("](").skip(1) {
            links += 1;
            dead.extend(broken(&document, rest.split(')').next().unwrap()));
        }
    }
    assert!(links > 30, "{links} links");
    assert_eq!(dead, [""; 0]);
}

#[test]
fn a_link_to_nothing_is_seen() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    for (link, right) in [
        ("docs/limits.md", true),
        ("#deploy", true),
        ("docs/nothing.md", false),
        ("#nothing", false),
        ("docs/table.md#nothing", false),
    ] {
        assert_eq!(broken(&readme, link).is_none(), right, "{link}");
    }
}
