// SPDX-License-Identifier: GPL-2.0

//! What the child will do, checked in the caller.
//!
//! Everything that lies in the caller's memory or descriptor table is fetched here, before the
//! child exists: a bad pointer is an error of the call, and no other thread can change what was
//! asked for.
//! The child gets paths, masks and files, never pointers or descriptors of the caller.

use crate::{
    action::{
        self,
        Action,
        Source,
        Step, //
    },
    calls,
    held_file::HeldFile,
    outcome::{
        At,
        Failure,
        Stage, //
    },
    uapi::spawn_template_action, //
};
use kernel::{
    bindings,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// What `fd` means in the child after some actions.
enum Slot {
    /// An action put something there.
    Placed,
    /// An action closed it.
    Closed,
    /// No action touched it.
    Untouched,
}

/// A descriptor that the child inherits because no action says otherwise.
pub(crate) struct Stdio {
    pub(crate) file: HeldFile,
    pub(crate) cloexec: bool,
}

/// All the child does before it execs.
pub(crate) struct Plan {
    /// The child starts with a copy of the caller's descriptor table.
    pub(crate) inherit: bool,
    /// Without `inherit`: what it starts with as 0, 1 and 2.
    pub(crate) stdio: [Option<Stdio>; 3],
    /// The caller's descriptor of the cgroup that the child is born in.
    pub(crate) cgroup: Option<c_int>,
    /// In the order in which the child carries them out.
    pub(crate) actions: KVec<Action>,
}

impl Plan {
    /// Reads and checks `len` actions at `addr`.
    ///
    /// `E2BIG` for too many; `EINVAL` for a count without an array, an unknown type or a field that
    /// is wrong or not used; `EFAULT` for memory that cannot be read.
    pub(crate) fn read(inherit: bool, addr: u64, len: u64) -> Result<Self, Failure> {
        let mut plan = Self::new(inherit, addr, len).at(Stage::Arguments)?;
        // `new` has checked it.
        let len = len as usize;
        let size = len * size_of::<spawn_template_action>();
        let mut reader = UserSlice::new(UserPtr::from_addr(addr as usize), size).reader();
        for index in 0..len {
            let addr = addr.wrapping_add((index * size_of::<spawn_template_action>()) as u64);
            let action = reader
                .read()
                .and_then(|spawn_template_action(action)| action::read(&action, addr, &plan));
            let action =
                action.map_err(|error| Failure::of_action(Stage::Arguments, index, error))?;
            if let Step::Cgroup(fd) = action.step {
                plan.cgroup = Some(fd);
            }
            let pushed = plan.actions.push(action, GFP_KERNEL_ACCOUNT);
            pushed.map_err(Error::from).at(Stage::Arguments)?;
        }
        calls::ask_about_all(&plan.actions)?;
        Ok(plan)
    }

    /// Whether the child needs an address space for what it does: it may open a driver's file, or
    /// look at itself in `/proc`.
    pub(crate) fn needs_mm(&self) -> bool {
        self.actions
            .iter()
            .any(|action| matches!(action.step, Step::Open { .. } | Step::Chdir(_)))
    }

    /// A plan without actions yet, with room for `len`.
    fn new(inherit: bool, addr: u64, len: u64) -> Result<Self> {
        if len > u64::from(bindings::SPAWN_TEMPLATE_MAX_ACTIONS) {
            return Err(E2BIG);
        }
        if addr == 0 && len != 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            inherit,
            stdio: if inherit {
                [None, None, None]
            } else {
                [0, 1, 2].map(inherited)
            },
            cgroup: None,
            // The limit above makes it fit.
            actions: KVec::with_capacity(len as usize, GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// Finds out what `fd` will be when the next action is due.
    pub(crate) fn source(&self, fd: u32) -> Source {
        // A copied table answers by itself.
        if self.inherit {
            return Source::Child(fd);
        }
        match self.slot(fd) {
            Slot::Placed => Source::Child(fd),
            Slot::Closed => Source::NotOpen,
            Slot::Untouched if (fd as usize) < self.stdio.len() => Source::Child(fd),
            Slot::Untouched => HeldFile::from_fd(fd).map_or(Source::NotOpen, Source::Caller),
        }
    }

    /// The last word of the actions so far on `fd`.
    fn slot(&self, fd: u32) -> Slot {
        for action in self.actions.iter().rev() {
            match &action.step {
                Step::Dup { newfd, .. } | Step::Open { newfd, .. } if *newfd == fd => {
                    return Slot::Placed;
                }
                Step::Close { fd: closed } if *closed == fd => return Slot::Closed,
                Step::CloseRange { first, last, flags }
                    if (*first..=*last).contains(&fd)
                        && flags & bindings::CLOSE_RANGE_CLOEXEC == 0 =>
                {
                    return Slot::Closed;
                }
                _ => (),
            }
        }
        Slot::Untouched
    }
}

/// What the calling task has open as `fd`, with its close-on-exec flag.
fn inherited(fd: u32) -> Option<Stdio> {
    let file = HeldFile::from_fd(fd).ok()?;
    Some(Stdio {
        file,
        // SAFETY: The calling task has a descriptor table.
        cloexec: unsafe { bindings::get_close_on_exec(fd) },
    })
}
