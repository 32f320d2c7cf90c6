//! The FUSE mount of Caribou: `caribou-mount`, and `mount.caribou`, `mount.fuse.caribou` for mount(8) and fstab.
//!
//! | file | what it owns |
//! |---|---|
//! | `config.rs` | [`Config`]: every setting, its default, the file |
//! | `options.rs`, `args.rs` | `-o` options; the two command lines |
//! | `server.rs` | the life of a mount: check, connect, mount, serve, unmount |
//! | `remount.rs` | `-o remount`: the kernel's flags of a mount that is up |
//! | `daemon.rs` | going into the background once the mount is up |
//! | `mount_point.rs` | what can be wrong with a mount point; kernel read-ahead; unmounting |
//! | `fuse.rs`, `adapter.rs` | thin adapter: fuser's calls → `fs.rs`, results → replies; where and how they are answered |
//! | `fs.rs`, `listing.rs`, `names.rs`, `attributes.rs` | the operations, as async functions that know no kernel |
//! | `handles.rs`, `dir.rs` | open files and directories; the scan of a directory with stable positions |
//! | `convert.rs` | wire attributes ↔ kernel attributes |
//! | `identity.rs` | who calls: uid, gid, supplementary groups |
//! | `interrupt.rs` | letting a waiting caller go when it is signalled (S5) |
//!
//! The metadata node checks access; everything about data is in `caribou-client`. Nothing here caches what another client
//! may change, but for the time-outs that the kernel is given.

mod adapter;
mod args;
mod attributes;
mod closed;
mod config;
mod convert;
mod daemon;
mod dir;
mod directories;
mod fs;
mod fuse;
mod handles;
mod identity;
mod interrupt;
mod listing;
mod mount_point;
mod names;
mod options;
mod remount;
mod server;

pub use args::{Args, Invocation};
pub use config::Config;
pub use remount::Remount;
pub use server::{Problem, run};
