//! The edges between crates (STYLE, layers 1) and their names.

use std::collections::BTreeMap;

use super::{MEMBERS, root};

/// Who may depend on whom; nothing else.
const EDGES: [(&str, &[&str]); 13] = [
    ("proto", &[]),
    ("meta-raft", &["proto", "planted", "failpoints"]),
    ("chunkd", &["proto", "client", "planted", "failpoints"]),
    ("client", &["proto", "planted"]),
    ("fuse-client", &["client"]),
    ("cli", &["proto", "client"]),
    ("histories", &["client"]),
    ("chaos-tests", &["chunkd", "client", "cli", "histories"]),
    ("planted", &[]),
    ("failpoints", &[]),
    ("simulation", &["proto", "meta-raft", "chunkd", "client", "histories", "planted"]),
    ("bench", &["cli"]),
    ("xtask", &[]),
];

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(path).expect("a member has a manifest").parse().expect("a manifest is TOML")
}

#[test]
fn crates_depend_only_where_the_layers_allow() {
    let folder_of: BTreeMap<String, &str> = MEMBERS
        .iter()
        .map(|folder| {
            let manifest = manifest(folder);
            (manifest["package"]["name"].as_str().expect("a name").to_owned(), *folder)
        })
        .collect();
    for (folder, allowed) in EDGES {
        let manifest = manifest(folder);
        let Some(dependencies) = manifest.get("dependencies").and_then(|d| d.as_table()) else { continue };
        for name in dependencies.keys() {
            if let Some(to) = folder_of.get(name) {
                assert!(allowed.contains(to), "{folder} must not depend on {to} (STYLE, layers)");
            }
        }
    }
}

#[test]
fn every_member_takes_the_workspaces_lints_and_edition() {
    for folder in MEMBERS {
        let manifest = manifest(folder);
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{folder}");
        assert_eq!(manifest["package"]["edition"]["workspace"].as_bool(), Some(true), "{folder}");
    }
}
