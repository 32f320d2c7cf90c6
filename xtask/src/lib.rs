//! What a machine can check about the tree (STYLE 30), as plain tests: `cargo nextest run -p xtask`.

#[cfg(test)]
mod tidy;
