//! Crates look `getrandom` up by its name at run time: the programs' own one (`src/entropy.rs`) must be found there.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=getrandom");
}
