//! Standard streams of the child.

use std::os::fd::{AsFd, BorrowedFd};

use crate::{ChildFd, Fd};

/// What a standard stream of the child is, as [`std::process::Stdio`].
///
/// Besides the constructors there are conversions from everything that has a descriptor: from a reference to it, which
/// the command then borrows, or from the thing itself, which it then owns.
#[derive(Debug, Clone)]
pub struct Stdio<'a>(pub(crate) Kind<'a>);

#[derive(Debug, Clone)]
pub(crate) enum Kind<'a> {
    Inherit,
    Null,
    Piped,
    Fd(Fd<'a>),
}

impl Stdio<'_> {
    /// The same as the caller's.
    pub fn inherit() -> Self {
        Stdio(Kind::Inherit)
    }

    /// `/dev/null`.
    pub fn null() -> Self {
        Stdio(Kind::Null)
    }

    /// A new pipe, whose other end is in the [`Child`](crate::Child).
    pub fn piped() -> Self {
        Stdio(Kind::Piped)
    }
}

impl<'a> From<Fd<'a>> for Stdio<'a> {
    fn from(fd: Fd<'a>) -> Self {
        Stdio(Kind::Fd(fd))
    }
}

impl<'a, T: AsFd + ?Sized> From<&'a T> for Stdio<'a> {
    fn from(fd: &'a T) -> Self {
        Fd::from(fd).into()
    }
}

impl<'a> From<BorrowedFd<'a>> for Stdio<'a> {
    fn from(fd: BorrowedFd<'a>) -> Self {
        Fd::from(fd).into()
    }
}

/// What the child has at this number by then: `stderr(ChildFd(1))` is the shell's `2>&1`.
impl From<ChildFd> for Stdio<'_> {
    fn from(fd: ChildFd) -> Self {
        Fd::from(fd).into()
    }
}
