//! Compiles the `.proto` files with protox (no protoc needed); `bytes` fields become `bytes::Bytes`.
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for folder in ["cluster/v1", "meta/v1", "chunk/v1", "admin/v1", "raft/v1", "log/v1"] {
        println!("cargo:rerun-if-changed={folder}");
        for entry in std::fs::read_dir(Path::new(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
