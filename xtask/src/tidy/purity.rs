//! The deterministic core imports nothing but ordered collections, itself and ids (STYLE 6); Raft's library stays behind its door.

use super::{assert_none, rust_files};

/// What the core may import of the standard library, of this crate and of others.
const ALLOWED: [&str; 9] = [
    "std::collections::",
    "std::fmt",
    "std::ops",
    "std::cmp",
    "std::iter",
    "std::error",
    "crate::fsm",
    "caribou_proto::ids",
    // Bugs that tests plant: `false` in release builds.
    "caribou_planted::",
];

/// The first segments that lead out of the core: the standard library, this crate, its dependencies.
fn outside() -> Vec<String> {
    let manifest: toml::Table = std::fs::read_to_string(super::root().join("meta-raft/Cargo.toml"))
        .expect("the crate has a manifest")
        .parse()
        .expect("a manifest is TOML");
    let dependencies = manifest["dependencies"].as_table().expect("the crate has dependencies");
    let names = dependencies.keys().map(|name| name.replace('-', "_"));
    names.chain(["std", "core", "alloc", "crate"].map(str::to_owned)).collect()
}

#[test]
fn the_state_machine_imports_nothing_impure() {
    let outside = outside();
    let mut places = Vec::new();
    for (path, text) in rust_files("meta-raft/src/fsm") {
        let body = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test = path.components().any(|c| c.as_os_str().to_string_lossy().contains("tests"));
        for line in body.lines().filter(|_| !is_test) {
            let line = line.trim();
            let Some(import) = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("use ") else { continue };
            let leads_out = outside.iter().any(|name| import.split("::").next() == Some(name.as_str()));
            if leads_out && !ALLOWED.iter().any(|allowed| import.starts_with(allowed)) {
                places.push(format!("{}: {line}", path.display()));
            }
        }
    }
    assert_none("imports that the deterministic core must not have", places);
}

#[test]
fn the_raft_library_stays_behind_its_door() {
    let mut places = Vec::new();
    for (path, text) in rust_files("meta-raft/src") {
        if !path.starts_with("meta-raft/src/raft") && text.contains("openraft::") {
            places.push(path.display().to_string());
        }
    }
    assert_none("files outside raft/ that name the Raft library", places);
}
