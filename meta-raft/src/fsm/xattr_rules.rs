//! The namespaces of extended attributes and who may use them, as Linux has it (`xattr_permission`).

use super::access::{self, STICKY, WRITE};
use super::command::Caller;
use super::error::Errno;
use super::tables::inodes::Inode;
use super::tables::xattrs::XATTR_NAME_MAX;

/// A namespace that can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    User,
    Trusted,
    Security,
}

/// ERANGE for a length that no name has, EINVAL for a bare prefix, ENOTSUP for other namespaces (ACLs among them, for now).
pub(crate) fn namespace(name: &[u8]) -> Result<Namespace, Errno> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(Errno::Range);
    }
    let namespaces: [(&[u8], Namespace); 3] =
        [(b"user.", Namespace::User), (b"trusted.", Namespace::Trusted), (b"security.", Namespace::Security)];
    let (prefix, namespace) =
        namespaces.into_iter().find(|(prefix, _)| name.starts_with(prefix)).ok_or(Errno::NotSup)?;
    if name.len() == prefix.len() || name.contains(&0) {
        return Err(Errno::Inval);
    }
    Ok(namespace)
}

/// Whether the caller may set or remove an attribute of this name.
pub(crate) fn check_write(inode: &Inode, caller: &Caller, name: &[u8]) -> Result<(), Errno> {
    match namespace(name)? {
        Namespace::Trusted | Namespace::Security if caller.is_root() => Ok(()),
        Namespace::Trusted | Namespace::Security => Err(Errno::Perm),
        Namespace::User if !access::takes_user_xattrs(inode.kind) => Err(Errno::Perm),
        Namespace::User if inode.is_dir() && inode.mode & STICKY != 0 && !caller.owns(inode) => Err(Errno::Perm),
        Namespace::User => access::check(inode, caller, WRITE),
    }
}

/// Whether the caller may read an attribute of this name; what they may not know of is ENODATA.
pub(crate) fn check_read(inode: &Inode, caller: &Caller, name: &[u8]) -> Result<(), Errno> {
    match namespace(name)? {
        Namespace::Security => Ok(()),
        Namespace::Trusted if caller.is_root() => Ok(()),
        Namespace::Trusted => Err(Errno::NoData),
        Namespace::User if !access::takes_user_xattrs(inode.kind) => Err(Errno::NoData),
        Namespace::User => access::check(inode, caller, access::READ),
    }
}

/// Whether `listxattr` shows it.
pub(crate) fn is_listed(caller: &Caller, name: &[u8]) -> bool {
    caller.is_root() || namespace(name) != Ok(Namespace::Trusted)
}
