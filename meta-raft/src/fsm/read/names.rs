//! From a name to its inode, and back.

use caribou_proto::ids::{InodeId, ROOT_INODE};

use crate::fsm::command::{Caller, Kind};
use crate::fsm::error::{Errno, Fatal, OpResult};
use crate::fsm::ops::names::{check_name, searched};
use crate::fsm::reply::Attr;
use crate::fsm::tables::{Tables, dentries, inodes, links, symlinks};

/// `.` and `..` are answered too: exports of the file system ask for them.
pub fn lookup(tables: &dyn Tables, caller: &Caller, parent: InodeId, name: &[u8]) -> OpResult<Attr> {
    let directory = searched(tables, parent, caller)?;
    let id = match name {
        b"." => return Ok(directory.attr(parent)),
        b".." => directory.link.map_or(parent, |link| link.parent),
        name => {
            check_name(name)?;
            dentries::get(tables, parent, name)?.ok_or(Errno::NoEnt)?.inode
        }
    };
    Ok(inodes::existing(tables, id)?.attr(id))
}

/// A symlink's target; EINVAL for anything else.
pub fn readlink(tables: &dyn Tables, id: InodeId) -> OpResult<Vec<u8>> {
    if inodes::named(tables, id)?.kind != Kind::Symlink {
        return Err(Errno::Inval.into());
    }
    Ok(symlinks::get(tables, id)?.ok_or_else(|| Fatal(format!("symlink {id} has no target")))?)
}

/// Where an inode is linked, at most `limit` places.
pub fn links(tables: &dyn Tables, id: InodeId, limit: usize) -> OpResult<Vec<(InodeId, Vec<u8>)>> {
    let inode = inodes::named(tables, id)?;
    let links = links::of(tables, id, &inode, limit)?;
    Ok(links.into_iter().map(|l| Ok((l.parent, dentries::name_at(tables, l)?))).collect::<Result<_, Fatal>>()?)
}

/// One path of an inode from the root folder, `/` for itself; `None` if it has none any more.
pub fn path(tables: &dyn Tables, id: InodeId) -> OpResult<Option<Vec<u8>>> {
    let mut link = inodes::named(tables, id)?.link;
    let mut at = id;
    let mut parts = Vec::new();
    while at != ROOT_INODE {
        let Some(here) = link else { return Ok(None) };
        parts.push(dentries::name_at(tables, here)?);
        at = here.parent;
        link = inodes::existing(tables, at)?.link;
    }
    let mut path = Vec::new();
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    Ok(Some(if path.is_empty() { b"/".to_vec() } else { path }))
}
