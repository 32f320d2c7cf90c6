//! Golden scripts: what each operation answers, which effects it has and which rows it changes.
//!
//! `<topic>/<case>.script` begins by saying what it shows. A line is a command; what it does follows, indented. The indented lines
//! are compared, and reviewed like code; `UPDATE_GOLDEN=1` writes them anew.

mod show;
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use world::World;

fn scripts() -> Vec<PathBuf> {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("tests/scripts");
    let inside = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    };
    let topics = inside(&root).into_iter().filter(|path| path.is_dir());
    let mut scripts: Vec<_> = topics
        .flat_map(|topic| inside(&topic))
        .filter(|path| path.extension().is_some_and(|e| e == "script"))
        .collect();
    scripts.sort();
    scripts
}

/// The script with its output made anew.
fn play(script: &str) -> String {
    let mut world = World::new();
    let mut played = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        played += line;
        played += "\n";
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for output in world.run(line).iter().flat_map(|output| output.lines()) {
            played += &format!("  {output}\n");
        }
    }
    played
}

#[test]
fn scripts_play_as_written() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let scripts = scripts();
    assert!(scripts.len() >= 15, "only {} scripts found", scripts.len());
    let mut different = Vec::new();
    for path in scripts {
        let script = fs::read_to_string(&path).expect("a script");
        assert!(script.starts_with("# "), "{} does not say what it shows", path.display());
        let played = play(&script);
        if played == script {
            continue;
        }
        if update {
            fs::write(&path, played).expect("written");
            continue;
        }
        let line = script.lines().zip(played.lines()).position(|(a, b)| a != b).unwrap_or(0);
        let now = played.lines().nth(line).unwrap_or_default();
        different.push(format!("{}:{}: now {now:?}", path.display(), line + 1));
    }
    assert!(different.is_empty(), "scripts differ (UPDATE_GOLDEN=1 rewrites them):\n{}", different.join("\n"));
}
