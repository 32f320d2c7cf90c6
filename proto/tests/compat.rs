//! A field number never changes its meaning: every field, enum value and call of the schema is pinned in `tests/fields.txt`.
//!
//! What the `.proto` files say is written down, one line each, and compared with the committed list. A line of that list that is
//! gone means that bytes on disk (`log/v1`) or messages of another release would be read wrongly: put the field back and add a new
//! number instead. Lines that are new are added with `UPDATE_GOLDEN=1`. The parser here knows as much of the language as we use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Fewer lines than this, and the parser has overlooked something.
const LEAST_LINES: usize = 600;

/// All `.proto` files below a folder, in the order of their paths.
fn proto_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the crate") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(proto_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Words, strings and single signs; comments are left out.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            2 + rest[1..].find('"').expect("a string ends")
        } else if is_word(first) {
            rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, behind) = rest.split_at(length);
        if !token.starts_with("//") {
            tokens.push(token);
        }
        rest = behind.trim_start();
    }
    tokens
}

/// What encloses a statement.
#[derive(Clone, Copy)]
struct Block<'a> {
    kind: &'a str,
    name: &'a str,
}

/// One line for each field, enum value and call: `caribou.meta.v1.Reply 2 = uint32 errno`.
fn listing(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut package = "";
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut statement: Vec<&str> = Vec::new();
    for token in tokens(text) {
        match token {
            "{" => {
                let [kind, name] = statement[..] else { panic!("{statement:?} opens no block that is known here") };
                blocks.push(Block { kind, name });
            }
            "}" => {
                assert!(statement.is_empty(), "{statement:?} has no end");
                blocks.pop().expect("a block is open");
            }
            ";" => match (blocks.last(), &statement[..]) {
                (None, ["package", name]) => package = *name,
                // `syntax` and `import`: nothing that is on the wire.
                (None, _) => {}
                (Some(block), words) => lines.push(line(package, &blocks, block.kind, words)),
            },
            word => {
                statement.push(word);
                continue;
            }
        }
        statement.clear();
    }
    assert!(blocks.is_empty(), "a block is not closed");
    lines
}

fn line(package: &str, blocks: &[Block<'_>], kind: &str, words: &[&str]) -> String {
    let named = blocks.iter().filter(|block| block.kind != "oneof").map(|block| block.name);
    let owner = std::iter::once(package).chain(named).collect::<Vec<_>>().join(".");
    match (kind, words) {
        ("service", ["rpc", ..]) => format!("{owner}: {}", words.join(" ")),
        ("message" | "enum", [what @ .., "=", number]) => format!("{owner} {number} = {}", what.join(" ")),
        // Never to be used again.
        ("message" | "enum", ["reserved", number]) => format!("{owner} {number} = reserved"),
        ("oneof", [what @ .., "=", number]) => {
            let name = blocks.last().expect("a oneof is open").name;
            format!("{owner} {number} = oneof {name}: {}", what.join(" "))
        }
        _ => panic!("{words:?} in {owner} is no statement that is known here: teach this test what it means"),
    }
}

fn shown(lines: &BTreeSet<&str>) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

#[test]
fn no_field_changes_its_number_type_or_name() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file of the schema");
    let lines: Vec<String> = proto_files(&root).into_iter().flat_map(|path| listing(&read(path))).collect();
    assert!(lines.len() >= LEAST_LINES, "only {} fields, values and calls were found", lines.len());

    let golden = root.join("tests/fields.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, lines.join("\n") + "\n").expect("written");
        return;
    }
    let pinned = read(golden);
    let pinned: BTreeSet<&str> = pinned.lines().collect();
    let now: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    let (gone, new) = (&pinned - &now, &now - &pinned);
    assert!(
        gone.is_empty(),
        "gone or changed, though other releases and logs on disk have it:\n{}put it back and use a new number for what is new",
        shown(&gone)
    );
    assert!(
        new.is_empty(),
        "not pinned yet:\n{}add it: UPDATE_GOLDEN=1 cargo nextest run -p caribou-proto --test compat",
        shown(&new)
    );
}

#[test]
fn the_parser_sees_what_is_there() {
    let text = r#"
        syntax = "proto3"; // not; this
        package a.v1;
        import "b/v1/c.proto";
        service S { rpc Call(stream In) returns (Out); }
        message In {
          enum Kind { UNKNOWN = 0; ONE = 1; }
          repeated b.v1.Thing things = 1; // things = 7;
          oneof body { Kind kind = 2; bytes bytes = 15; }
          optional uint32 last = 3;
        }
        message Out {}
    "#;
    let expected = [
        "a.v1.S: rpc Call ( stream In ) returns ( Out )",
        "a.v1.In.Kind 0 = UNKNOWN",
        "a.v1.In.Kind 1 = ONE",
        "a.v1.In 1 = repeated b.v1.Thing things",
        "a.v1.In 2 = oneof body: Kind kind",
        "a.v1.In 15 = oneof body: bytes bytes",
        "a.v1.In 3 = optional uint32 last",
    ];
    assert_eq!(listing(text), expected);
}
