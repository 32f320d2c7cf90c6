//! Single files: a header that says what they own, a size that one can read, no placeholders, no vague module names.

use super::{MEMBERS, assert_none, rust_files};

/// Lines without tests above which a file must be split (STYLE 14: think at 500, justify over 800).
const MAX_LINES: usize = 800;
/// A program's main file: parse, load, start, run.
const MAX_MAIN_LINES: usize = 60;

fn all() -> impl Iterator<Item = (std::path::PathBuf, String)> {
    MEMBERS.into_iter().flat_map(rust_files)
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let bare = all().filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!"));
    assert_none("files without a //! header", bare.map(|(p, _)| p.display().to_string()).collect());
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for (path, text) in all() {
        let lines = text.lines().take_while(|l| *l != "#[cfg(test)]").count();
        let limit = if path.ends_with("src/main.rs") { MAX_MAIN_LINES } else { MAX_LINES };
        if lines > limit {
            long.push(format!("{}: {lines} lines, at most {limit}", path.display()));
        }
    }
    assert_none("files that must be split by concept", long);
}

#[test]
fn nothing_is_ignored_or_left_to_do() {
    // Put together here, so that this file does not name itself.
    let marks = ["#[ig", "todo", "unimplemented", "FIX", "XX"].iter().zip(["nore", "!(", "!(", "ME", "X:"]);
    let marks: Vec<String> = marks.map(|(a, b)| format!("{a}{b}")).collect();
    let mut places = Vec::new();
    for (path, text) in all() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|m| line.contains(m)) {
                places.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert_none("placeholders and ignored tests", places);
}

#[test]
fn modules_are_named_after_concepts() {
    let vague = ["util", "utils", "common", "helpers", "misc"];
    let named = all().filter(|(p, _)| {
        p.components().any(|c| {
            let name = c.as_os_str().to_string_lossy();
            vague.contains(&name.trim_end_matches(".rs"))
        })
    });
    assert_none("vague module names", named.map(|(p, _)| p.display().to_string()).collect());
}
