// SPDX-License-Identifier: GPL-2.0

//! Whether a file is still the one that was parsed.

use crate::held_file::HeldFile;
use core::mem::MaybeUninit;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    time::NSEC_PER_SEC, //
};

/// What tells a file, and a state of its contents and attributes, from all others.
///
/// The change time moves with every write, truncation, chmod, chown, link and unlink, and cannot be
/// set back; the change cookie does so even within one tick of the clock, where the file system has
/// one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    dev: bindings::dev_t,
    ino: u64,
    size: i64,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: (i64, c_long),
    ctime: (i64, c_long),
    cookie: Option<u64>,
}

impl Identity {
    /// Asks the file system.
    pub(crate) fn of(file: &HeldFile) -> Result<Self> {
        let mut stat = MaybeUninit::<bindings::kstat>::zeroed();
        // SAFETY: The path is valid for as long as `file` lives, and `stat` can be written to.
        to_result(unsafe {
            bindings::vfs_getattr_nosec(
                file.path(),
                stat.as_mut_ptr(),
                bindings::STATX_BASIC_STATS | bindings::STATX_CHANGE_COOKIE,
                bindings::AT_STATX_SYNC_AS_STAT,
            )
        })?;
        // SAFETY: The structure was zeroed before, and all of its fields are integers.
        let stat = unsafe { stat.assume_init() };

        Ok(Self {
            dev: stat.dev,
            ino: stat.ino,
            size: stat.size,
            mode: stat.mode,
            uid: stat.uid.val,
            gid: stat.gid.val,
            mtime: (stat.mtime.tv_sec, stat.mtime.tv_nsec),
            ctime: (stat.ctime.tv_sec, stat.ctime.tv_nsec),
            cookie: (stat.result_mask & bindings::STATX_CHANGE_COOKIE != 0)
                .then_some(stat.change_cookie),
        })
    }

    /// Like [`Identity::of`], but one that a change made from now on is sure to alter.
    ///
    /// Where only the change time tells, it must lie so far back that the next change gets another
    /// one: a file that was written this very moment is waited for, a tick of the clock as a rule.
    /// Fails with `EINTR` if the task is killed meanwhile.
    pub(crate) fn settled(file: &HeldFile) -> Result<Self> {
        loop {
            let identity = Self::of(file)?;
            if identity.is_settled(file) {
                return Ok(identity);
            }
            // SAFETY: This is a process, and no lock is held.
            if unsafe { bindings::schedule_timeout_killable(1) } > 0 {
                return Err(EINTR);
            }
        }
    }

    /// Whether a change made from now on is sure to alter the identity, which is that of `file`.
    pub(crate) fn is_settled(&self, file: &HeldFile) -> bool {
        self.cookie.is_some() || self.age() > granularity(file)
    }

    /// Whether each change of `file`, whose identity this is, gives it another one.
    ///
    /// So it is where there is a change cookie, and where change times are taken as finely as they
    /// are asked for. Elsewhere a server decides, or the format on the disk, and no number says in
    /// which steps: FUSE, NFS and vfat all claim nanoseconds.
    pub(crate) fn shows_each_change(&self, file: &HeldFile) -> bool {
        // SAFETY: The file is valid, and with it its inode, superblock and type.
        let flags = unsafe { (*(*(*file.inode()).i_sb).s_type).fs_flags };
        self.cookie.is_some() || flags & bindings::FS_MGTIME as c_int != 0
    }

    /// Nanoseconds since the change time, by the clock that file systems use; as good as infinite
    /// for a time in the future, which no change from now on will produce either.
    fn age(&self) -> i64 {
        let mut now = MaybeUninit::<bindings::timespec64>::uninit();
        // SAFETY: `now` can be written to.
        unsafe { bindings::ktime_get_coarse_real_ts64(now.as_mut_ptr()) };
        // SAFETY: The call has filled it in.
        let now = unsafe { now.assume_init() };

        let age = (now.tv_sec.saturating_sub(self.ctime.0))
            .saturating_mul(NSEC_PER_SEC)
            .saturating_add(now.tv_nsec as i64 - self.ctime.1 as i64);
        if age < 0 {
            i64::MAX
        } else {
            age
        }
    }

    /// Device number, as major and minor.
    pub(crate) fn device(&self) -> (u32, u32) {
        const MINOR_BITS: u32 = 20;
        (self.dev >> MINOR_BITS, self.dev & ((1 << MINOR_BITS) - 1))
    }

    /// Inode number.
    pub(crate) fn inode(&self) -> u64 {
        self.ino
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size as u64
    }
}

/// The steps in which change times of the file's file system move, in nanoseconds: those of the
/// file system itself, or of the clock where that is coarser.
fn granularity(file: &HeldFile) -> i64 {
    // The tick of the coarse clock is not known here; no kernel runs with less than 100 Hz.
    const TICK: i64 = NSEC_PER_SEC / 100;

    // SAFETY: The file is valid, and with it its inode and superblock.
    let step = unsafe { (*(*file.inode()).i_sb).s_time_gran };
    TICK.max(step.into())
}
