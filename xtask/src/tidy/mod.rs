//! Tidy checks: each walks the files under version control's root and names every place that breaks its rule.

mod crates;
mod files;
mod purity;

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The workspace's root: that of the checkout whose tests are run, which may not be the one where they were compiled.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&own).parent().expect("xtask lies in the workspace").to_owned()
}

/// Members of the workspace, by folder.
const MEMBERS: [&str; 13] = [
    "proto",
    "meta-raft",
    "chunkd",
    "client",
    "fuse-client",
    "cli",
    "histories",
    "chaos-tests",
    "simulation",
    "planted",
    "failpoints",
    "bench",
    "xtask",
];

/// All Rust files below a folder of the root, with their text.
fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root().join(folder)).sort_by_file_name() {
        let path = entry.expect("the tree can be walked").into_path();
        if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file is text");
            files.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
        }
    }
    assert!(!files.is_empty(), "{folder} holds no Rust file");
    files
}

fn assert_none(what: &str, places: Vec<String>) {
    assert!(places.is_empty(), "{what}:\n  {}", places.join("\n  "));
}
